"""A client of the service, as a process that has nothing loaded: sends pictures, and times answers.

Reads a job in JSON from the command line and prints what it saw as JSON, one document.
"""

import http.client
import itertools
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """What to send.

    Attributes:
        port: Of the service, on this machine.
        path: Of the requests.
        pictures: Files, which are sent again and again.
        n_clients: Connections at a time.
        seconds: How long; 0 for as long as ``n_requests`` take.
        n_requests: How many in all; 0 for as long as ``seconds`` last.
        rate: Pictures a second in all, whatever is answered; 0 for as fast as answers come.
    """

    port: int
    path: str
    pictures: list[str]
    n_clients: int
    seconds: float = 0.0
    n_requests: int = 0
    rate: float = 0.0


@dataclass
class Seen:
    """What was answered.

    Attributes:
        wall_s: Seconds from the first request to the last answer.
        answers_s: Seconds of each answer with a verdict OK or NOK.
        statuses: Answers by status.
        n_unanswered: Requests that got no answer.
        n_behind: Requests that could not be sent at their time, for all connections were busy.
    """

    wall_s: float = 0.0
    answers_s: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    n_unanswered: int = 0
    n_behind: int = 0


def send(job: Job) -> Seen:
    """Send what a job says."""
    pictures = [Path(one).read_bytes() for one in job.pictures]
    numbers, lock, seen = itertools.count(), threading.Lock(), Seen()
    start_s = time.perf_counter()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", job.port, timeout=60)
        while True:
            with lock:
                number = next(numbers)
            now_s = time.perf_counter() - start_s
            if job.rate:
                due_s = number / job.rate
                if due_s > now_s:
                    time.sleep(due_s - now_s)
                elif now_s - due_s > 0.1:
                    with lock:
                        seen.n_behind += 1
                now_s = max(now_s, due_s)
            is_over = job.seconds and now_s >= job.seconds
            if is_over or (job.n_requests and number >= job.n_requests):
                return
            picture = pictures[number % len(pictures)]
            sent_s = time.perf_counter()
            try:
                connection.request("POST", job.path, picture, {"Content-Type": "image/png"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                with lock:
                    seen.n_unanswered += 1
                continue
            took_s = time.perf_counter() - sent_s
            with lock:
                status = str(answer.status)
                seen.statuses[status] = seen.statuses.get(status, 0) + 1
                if answer.status == 200:
                    seen.answers_s.append(took_s)

    threads = [threading.Thread(target=work) for _ in range(job.n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.wall_s = time.perf_counter() - start_s
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(send(Job(**json.loads(sys.argv[1]))))))
