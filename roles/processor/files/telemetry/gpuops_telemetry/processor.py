# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m gpuops_telemetry.processor: consumes both topics, stores events, and says what a token costs."""

from __future__ import annotations

import logging
import sys
import threading

import uvicorn
from confluent_kafka import Consumer, Producer

from gpuops_telemetry.api import make_app
from gpuops_telemetry.dead_letters import TransactionalCommitter
from gpuops_telemetry.kafka_options import consumer_options, dead_letter_producer_options
from gpuops_telemetry.logs import kafka_logger, set_up_logging
from gpuops_telemetry.pump import Pump
from gpuops_telemetry.settings import Environment, ProcessorSettings, SettingsError
from gpuops_telemetry.state import ProcessorState
from gpuops_telemetry.store import MongoStore, connect
from gpuops_telemetry.watchdog import watch

LOG = logging.getLogger(__name__)

# Longer than one step of the consuming thread takes when everything answers; the container's stop time is above it.
STOP_SECONDS = 20.0


def make_pump(settings: ProcessorSettings, state: ProcessorState, store: MongoStore) -> Pump:
    """The consuming loop, wired to the broker and the database."""
    consumer = Consumer(consumer_options(settings.kafka, settings.group_id), logger=kafka_logger())
    options = dead_letter_producer_options(settings.kafka, settings.group_id)
    committer = TransactionalCommitter(consumer, lambda: Producer(options, logger=kafka_logger()))
    return Pump(consumer, store, committer, state, topics=settings.topics, batch_size=settings.batch_size)


def main() -> int:
    """Runs until SIGTERM; 1 when the consuming thread failed or hangs, 2 when a setting is wrong."""
    set_up_logging()
    try:
        settings = ProcessorSettings.from_environment(Environment())
    except SettingsError as error:
        sys.stderr.write(f"The processor can't start: {error}\n")
        return 2
    state = ProcessorState(settings.window_seconds, settings.price_per_hour_usd)
    store = MongoStore(connect(settings.mongo), settings.mongo.database)
    pump = make_pump(settings, state, store)

    def consume() -> None:
        try:
            pump.run()
        except Exception as error:
            LOG.exception("The consuming thread ended")
            state.failure = error
            server.should_exit = True

    thread = threading.Thread(target=consume, name="pump", daemon=True)
    stopped = threading.Event()

    def end_when_it_hangs() -> None:
        if problem := watch(stopped, state.fatal_problems):
            state.failure = state.failure or RuntimeError(problem)
            server.should_exit = True

    def start() -> None:
        thread.start()
        threading.Thread(target=end_when_it_hangs, name="watch", daemon=True).start()

    def stop() -> None:
        stopped.set()
        pump.stop()
        thread.join(STOP_SECONDS)

    app = make_app(state, store, start=start, stop=stop)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="0.0.0.0",  # noqa: S104 - inside the container; the published address is the host's own
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )
    LOG.info("Starting as %s: %s, %s", settings.kafka.client_id, ", ".join(settings.topics), settings.mongo)
    server.run()
    return 1 if state.failure is not None else 0


if __name__ == "__main__":
    sys.exit(main())
