"""Triggers over MQTT that become verdicts over MQTT, while the broker goes and comes."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

mqtt = pytest.importorskip("paho.mqtt.client", reason="the extra mqtt is not installed")

from mosquitto import PROGRAM, Broker  # noqa: E402  # once paho is there
from test_supervisor import SOON, Station, end_all, state_of, wait_for  # noqa: E402  # after importorskip

from padim.line.mqtt import MqttSink, MqttSource  # noqa: E402  # after importorskip
from padim.line.settings import MqttSinkSettings, MqttSourceSettings  # noqa: E402  # after importorskip
from padim.line.supervisor import Supervisor  # noqa: E402  # after importorskip

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")
N_PARTS = 40


def test_a_broker_that_is_restarted_loses_no_part_and_no_verdict(tmp_path: Path) -> None:
    with ExitStack() as held:
        broker = Broker(tmp_path / "broker")
        broker.start()
        held.callback(lambda: broker.stop())
        there = {"host": "127.0.0.1", "port": broker.port, "timeout_s": 5.0}
        plant = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "plant", clean_session=False)
        plant.reconnect_delay_set(1, 1)
        heard: list[str] = []
        plant.on_message = lambda _client, _data, message: heard.append(
            json.loads(message.payload)["serial"]
        )
        plant.connect("127.0.0.1", broker.port)
        plant.loop_start()
        held.callback(lambda: (plant.disconnect(), plant.loop_stop()))
        plant.subscribe("verdicts/#", 1)

        station = Station(tmp_path)
        trigger = MqttSourceSettings(
            name="trigger", client="station", topic="trigger", recipe="part", **there
        )
        table = MqttSinkSettings(name="table", client="results", topic="verdicts/part", **there)
        supervisor = Supervisor(
            station.inspect, station.store, [MqttSource(trigger)], [MqttSink(table)], pauses=SOON
        )
        supervisor.start()
        wait_for(lambda: all(one.status == "running" for one in supervisor.states))
        for n in range(N_PARTS):
            plant.publish("trigger", json.dumps({"id": f"id-{n}", "serial": str(n)}), 1)
            if n == N_PARTS // 2:
                wait_for(lambda: heard)
                broker.stop()
                wait_for(lambda: state_of(supervisor, "trigger").status == "failed")
                wait_for(lambda: state_of(supervisor, "table").status == "failed")
                assert "broker" in state_of(supervisor, "table").trouble
                broker.start()
        wait_for(lambda: len(set(heard)) == N_PARTS, 30)
        time.sleep(0.2)
        end_all(supervisor)
        assert set(heard) == {str(n) for n in range(N_PARTS)}
        assert sum(station.store.count_verdicts().values()) == N_PARTS
        station.store.close()
