"""``padim.Monitor``: a drift alarm that rings falsely as seldom as it says."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from padim.documents import Count, Document, Finite
from padim.errors import ShapeError, UsageError, join_names
from padim.monitor.alarm import Alarm, Basis, Evidence, Moment, MonitorState, find_place
from padim.monitor.bets import Bets
from padim.monitor.observation import SCORE, Observation, is_of_map, name_columns
from padim.monitor.pool import Pool
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.scoring.prediction import Decision, Prediction, PredictionRecord
from padim.scoring.reference import MAP_CELLS

PARTS_BETWEEN_ALARMS = 10_000
N_KEPT = 2000  # parts that are compared with
N_FIRST = 50  # accepted parts that take the place of images of the fit
_N_RECENT = 50  # parts that the recent map is about the mean of

_Row = Annotated[tuple[Finite, ...], Meta(max_length=80)]


@dataclass(frozen=True)
class MonitorSettings:
    """The choices of a monitor; ``Monitor`` says what they are."""

    parts_between_alarms: Annotated[int, Meta(ge=2, le=1 << 40)] = PARTS_BETWEEN_ALARMS
    every: Annotated[int, Meta(ge=1, le=1 << 20)] = 1
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    n_kept: Annotated[int, Meta(ge=N_FIRST, le=1 << 20)] = N_KEPT

    def __post_init__(self) -> None:
        """Raise a `UsageError` if one is out of range."""
        for name, least in (
            ("parts_between_alarms", 2),
            ("every", 1),
            ("seed", 0),
            ("n_kept", N_FIRST),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(
                    f"{name} is {value!r}, but needs to be a whole number, {least} or more. Try "
                    f"{max(least, getattr(MonitorSettings, name))}."
                )


@dataclass(frozen=True)
class _SavedBets:
    shares: tuple[tuple[Finite, Finite, Finite], ...]
    log_capital: _Row
    evidence: _Row
    lowest: _Row
    since: tuple[Count, ...]


@dataclass(frozen=True)
class _Saved:
    """A monitor as plain data."""

    version: Literal[1]
    settings: MonitorSettings
    names: tuple[str, ...]
    basis: Basis
    n_seen: Count
    n_accepted: Count
    n_rejected_in_a_row: Count
    n_draws: Count
    rows: tuple[_Row, ...]
    first: tuple[_Row, ...]
    bets: _SavedBets
    since_names: tuple[str, ...]
    usual_map: tuple[_Row, ...]
    recent_map: tuple[_Row, ...]
    n_maps: Count


class Monitor:
    """Watches the parts of a line, and rings when they are not any more what they were.

    It bets on each accepted part that its statistics are higher, or lower, than those of the parts
    before; while nothing changes, no way of betting wins in the long run. Parts are taken to be
    exchangeable: while nothing changes, any order of them is as likely as any other. Then there are
    ``parts_between_alarms`` or more parts from one false alarm to the next, on average.

    It begins with the good images of a model. Those of the fit, each left out in turn, are nearly
    exchangeable with parts; the first 50 accepted parts take their place. Held-out images of
    ``padim.calibrate`` stay. After an alarm it learns anew what is usual.

    Args:
        decision: That of the model, ``model.decision``; None to begin with nothing.
        parts_between_alarms: Parts that are looked at between two false alarms, on average.
        every: Look at one accepted part in so many, where neighbours resemble each other.
        seed: Of the numbers that ties are broken by; the same parts give the same alarms.
        n_kept: Parts that the next one is compared with; more take more memory and time.

    Raises:
        UsageError: A number is out of range.

    Examples:
        >>> model = padim.load("part.safetensors")
        >>> monitor = padim.Monitor(model.decision)
        >>> for prediction in model.predict(["good.png", "good.png"]):
        ...     state = monitor.update(prediction)
        >>> state.n_accepted, state.alarm
        (2, None)
        >>> again = padim.Monitor.restore(monitor.save())
    """

    def __init__(
        self,
        decision: Decision | None = None,
        *,
        parts_between_alarms: int = PARTS_BETWEEN_ALARMS,
        every: int = 1,
        seed: int = 0,
        n_kept: int = N_KEPT,
    ) -> None:
        self.settings = MonitorSettings(parts_between_alarms, every, seed, n_kept)
        self._begin: dict[str, list[float]] = {}
        self._basis: Basis = "parts"
        usual = np.zeros((MAP_CELLS, MAP_CELLS))
        calibration = decision.calibration if decision is not None else None
        reference = calibration.reference if calibration is not None else None
        if decision is not None and calibration and reference and not calibration.stale:
            self._begin = _accepted_columns(decision)
            self._basis = "leave-one-out" if calibration.source == LEAVE_ONE_OUT else "held-out"
            usual = reference.coarse_map.astype(np.float64)
        self._names: tuple[str, ...] = ()
        self._n_seen = self._n_accepted = self._n_rejected_in_a_row = self._n_draws = 0
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._pool = Pool(np.empty((0, 0), np.float32), n_kept)
        self._first: list[NDArray[np.float32]] = []
        self._bets = Bets.start(0, 1)
        self._since_names: list[str] = []
        self._usual_map, self._recent_map, self._n_maps = usual, np.zeros_like(usual), 0

    def update(self, part: Prediction | PredictionRecord | Observation) -> MonitorState:
        """Look at the next part.

        Raises:
            ShapeError: It lacks a statistic that the first part had.
            UsageError: A statistic is no finite number.
        """
        one = part if isinstance(part, Observation) else Observation.of(part)
        self._n_seen += 1
        if not one.is_accepted:
            self._n_rejected_in_a_row += 1
            return self._describe(None)
        self._n_rejected_in_a_row = 0
        self._n_accepted += 1
        if (self._n_accepted - 1) % self.settings.every:
            return self._describe(None)
        row = self._read(one)
        uniform = self._draw(len(row) + 1)
        number = self._n_seen
        self._bets = self._bets.step(self._pool.p_values(row, uniform[:-1]), number)
        self._pool.add(row, float(uniform[-1]))
        for i in np.flatnonzero(self._bets.since == number):
            self._since_names[i] = one.name
        self._add_map(one)
        if self._bets.total >= self.settings.parts_between_alarms:
            return self._ring(Moment(number, one.name))
        if self._basis == "leave-one-out":
            self._first.append(row)
            if len(self._first) == N_FIRST:
                self._learn_anew(np.stack(self._first))
        return self._describe(None)

    @property
    def state(self) -> MonitorState:
        """Where it stands."""
        return self._describe(None)

    def save(self) -> str:
        """All of it as JSON, for ``restore``."""
        bets = self._bets
        saved = _Saved(
            1,
            self.settings,
            self._names,
            self._basis,
            self._n_seen,
            self._n_accepted,
            self._n_rejected_in_a_row,
            self._n_draws,
            _to_rows(self._pool.rows),
            tuple(_to_rows(np.stack(self._first))) if self._first else (),
            _SavedBets(
                tuple((a, b, c) for a, b, c in bets.shares.tolist()),
                tuple(bets.log_capital.tolist()),
                tuple(bets.evidence.tolist()),
                tuple(bets.lowest.tolist()),
                tuple(bets.since.tolist()),
            ),
            tuple(self._since_names),
            _to_rows(self._usual_map),
            _to_rows(self._recent_map),
            self._n_maps,
        )
        return json.dumps(asdict(saved) | {"begin": self._begin if not self._names else {}})

    @classmethod
    def restore(cls, text: str) -> Self:
        """The monitor that ``save`` wrote.

        Raises:
            UsageError: It is no such text.
        """
        document = Document("The state of the monitor", UsageError, "Begin with a new monitor.")
        data = document.parse(text)
        saved = document.restore(data, _Saved)
        begin = document.restore(data, _Begin).begin
        monitor = cls(**asdict(saved.settings))
        monitor._take(saved, begin, document)
        return monitor

    def _take(self, saved: _Saved, begin: dict[str, list[float]], document: Document) -> None:
        n, bets = len(saved.names), saved.bets
        sizes = {len(row) for row in (*saved.rows, *saved.first)}
        sizes |= {len(one) for one in (bets.shares, bets.log_capital, bets.evidence)}
        sizes |= {len(one) for one in (bets.lowest, bets.since, saved.since_names)}
        square = [np.array(one, np.float64) for one in (saved.usual_map, saved.recent_map)]
        if sizes - {n} or len(saved.rows) > saved.settings.n_kept:
            raise document.refuse("its rows do not fit its statistics")
        if any(one.shape != (MAP_CELLS, MAP_CELLS) for one in square):
            raise document.refuse("its maps are of another size")
        if len({len(one) for one in begin.values()}) > 1:
            raise document.refuse("the columns it begins with differ in length")
        self._names, self._basis, self._begin = saved.names, saved.basis, begin
        self._n_seen, self._n_accepted = saved.n_seen, saved.n_accepted
        self._n_rejected_in_a_row, self._n_draws = saved.n_rejected_in_a_row, saved.n_draws
        bits = np.random.PCG64(saved.settings.seed)
        bits.advance(saved.n_draws)
        self._generator = np.random.Generator(bits)
        rows = np.array(saved.rows, np.float32).reshape(len(saved.rows), n)
        self._pool = Pool(rows, saved.settings.n_kept)
        self._first = [np.array(row, np.float32) for row in saved.first]
        numbers = (bets.log_capital, bets.evidence, bets.lowest)
        log_capital, evidence, lowest = (np.array(one, np.float64) for one in numbers)
        shares = np.array(bets.shares, np.float64).reshape(-1, 3)
        self._bets = Bets(shares, log_capital, evidence, lowest, np.array(bets.since, np.int64))
        self._since_names, self._n_maps = list(saved.since_names), saved.n_maps
        self._usual_map, self._recent_map = square

    def _read(self, one: Observation) -> NDArray[np.float32]:
        """The row of a part; the first says which statistics there are."""
        if not self._names:
            begin = self._begin
            self._names = tuple(name for name in one.values if not begin or name in begin)
            columns = [begin.get(name, []) for name in self._names]
            rows = np.array(columns, np.float32).T.reshape(-1, len(self._names))
            n_kept = self.settings.n_kept
            if len(rows) > n_kept:
                rows = rows[np.random.default_rng(self.settings.seed).permutation(len(rows))]
            self._pool = Pool(rows[:n_kept], n_kept)
            self._bets = Bets.start(len(self._names), self._n_seen)
            self._since_names = [""] * len(self._names)
        if missing := [name for name in self._names if name not in one.values]:
            raise ShapeError(
                f"{one.name or 'A part'} has no {join_names(missing)}, but the first part had. "
                "Begin with a new monitor for other results."
            )
        row = np.array([one.values[name] for name in self._names], np.float32)
        if not np.isfinite(row).all():
            raise UsageError(
                f"A statistic of {one.name or 'a part'} is {row}, but needs to be finite. Leave "
                "that part out."
            )
        return row

    def _draw(self, n: int) -> NDArray[np.float64]:
        """The next numbers from 0 to 1, each of one step of the generator."""
        self._n_draws += n
        return self._generator.random(n)

    def _add_map(self, one: Observation) -> None:
        coarse_map = np.array(one.coarse_map, np.float64)
        if coarse_map.shape == self._recent_map.shape:
            self._n_maps += 1
            weight = 1 / min(self._n_maps, _N_RECENT)
            self._recent_map = self._recent_map + weight * (coarse_map - self._recent_map)
            if self._basis == "parts" and self._n_maps <= _N_RECENT:
                self._usual_map = self._recent_map

    def _learn_anew(self, rows: NDArray[np.float32]) -> None:
        """Forget all but these parts, and what has been won."""
        self._basis, self._first = "parts", []
        self._pool = Pool(rows, self.settings.n_kept)
        self._bets = Bets.start(len(self._names), self._n_seen + 1)
        self._since_names = [""] * len(self._names)
        if len(rows):
            self._usual_map = self._recent_map
        else:
            self._n_maps = 0

    def _ring(self, at: Moment) -> MonitorState:
        """Say what has changed, and begin anew."""
        culprit = self._bets.find_culprit()
        place = None
        if is_of_map(self._names[culprit]) and self._n_maps:
            place = find_place(self._recent_map, self._usual_map)
        alarm = Alarm(
            at,
            self._list_evidence()[culprit],
            self._bets.find_gain(culprit),
            self._basis,
            self.settings.parts_between_alarms * self.settings.every,
            place,
        )
        state = self._describe(alarm)
        self._learn_anew(np.empty((0, len(self._names)), np.float32))
        return state

    def _list_evidence(self) -> tuple[Evidence, ...]:
        bets = self._bets
        return tuple(
            Evidence(
                name,
                float(bets.evidence[i]),
                Moment(int(bets.since[i]), self._since_names[i]),
                bets.is_higher(i),
            )
            for i, name in enumerate(self._names)
        )

    def _describe(self, alarm: Alarm | None) -> MonitorState:
        return MonitorState(
            self._n_seen,
            self._n_accepted,
            self._n_rejected_in_a_row,
            self._basis,
            self._pool.count,
            self._list_evidence(),
            self._bets.total if self._names else 0.0,
            alarm,
        )


@dataclass(frozen=True)
class _Begin:
    begin: dict[str, list[Finite]]


def _accepted_columns(decision: Decision) -> dict[str, list[float]]:
    """The statistics of the good images that the threshold accepts, as it accepts parts."""
    calibration = decision.calibration
    columns = name_columns(calibration.image_score, calibration.reference)
    is_accepted = columns[SCORE] <= decision.threshold.score
    return {name: values[is_accepted].tolist() for name, values in columns.items()}


def _to_rows(array: NDArray[np.float32] | NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in array.tolist())
