"""`falcon-agent run`: the daemon."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from falcon_agent.cli.options import add_config, add_roots, command, settings
from falcon_agent.errors import FalconAgentError

if TYPE_CHECKING:
    import argparse

log = logging.getLogger("falcon_agent")

_TEXT = """\
Find the containers of this host, measure them at every step and push the numbers. Stays in the foreground and writes
its log to standard error. SIGTERM and SIGINT stop it within two seconds, after delivering what is queued. SIGHUP reads
the configuration again; one that cannot be used is refused and the old one stays."""
_EXAMPLES = """\
  falcon-agent run --config /etc/falcon-agent/agent.toml
  FALCON_AGENT__AGENT__STEP=30 falcon-agent run
  kill -HUP PID                                      # after editing the configuration
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(commands, "run", "measure and push, until told to stop", _TEXT, _EXAMPLES)
    add_config(parser)
    add_roots(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the agent until a signal ends it."""
    from falcon_agent.agent import Agent  # noqa: PLC0415
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415

    chosen = settings(args)
    logging.basicConfig(
        stream=sys.stderr, level=chosen.log.level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    # These two say at every turn what only their developers want to know.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    # Blocked before any thread starts, so that all of them inherit it and sigwait below gets every signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    agent = Agent(chosen, SelfStat())
    agent.start()
    log.info("started: step %d s, pushing to %s", chosen.agent.step, ", ".join(chosen.transfer.addresses))
    while (received := signal.sigwait(signals)) == signal.SIGHUP:
        try:
            chosen = settings(args)
            agent.reload(chosen)
        except FalconAgentError as error:
            log.error("reload refused, the old configuration stays: %s", error)  # noqa: TRY400  a user's mistake
        else:
            logging.getLogger().setLevel(chosen.log.level.upper())
            log.info("reloaded: step %d s", chosen.agent.step)
    log.info("stopping on %s", signal.Signals(received).name)
    if not agent.stop():
        # Leaving in the usual way would wait for the stuck thread.
        logging.shutdown()
        os._exit(0)
    return 0
