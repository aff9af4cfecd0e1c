"""`falcon-agent run`: the daemon."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from falcon_agent.allocator import collect_seldom, keep_little
from falcon_agent.cli import FAILED, UNUSABLE
from falcon_agent.cli.options import add_config, add_roots, command, validating
from falcon_agent.errors import ConfigError, FalconAgentError
from falcon_agent.journal import take_over
from falcon_agent.servicemanager import ServiceManager, status_line

if TYPE_CHECKING:
    import argparse

    from falcon_agent.journal import EventHandler

log = logging.getLogger("falcon_agent")

_DESCRIPTORS = 65536
"""Enough for some 5,000 containers; the kernel keeps a page for each that is in use."""

_TEXT = """\
Find the containers of this host, measure them at every step and push the numbers. Stays in the foreground and writes
its log to standard error. SIGTERM and SIGINT stop it within two seconds, after delivering what is queued. SIGHUP reads
the configuration again; one that cannot be used is refused and the old one stays.

Under systemd (Type=notify) it says when it is ready, and `systemctl status` shows how it is. With WatchdogSec= it is
restarted when no cycle has ended for three steps and 30 seconds, or for WatchdogSec= if that is longer.

exit codes: 0 told to stop; 1 it cannot go on; 2 the configuration cannot be used."""
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
    events = take_over(sys.stderr, os.environ)
    manager = ServiceManager.from_environment(os.environ)
    try:
        return _serve(args, events, manager)
    except FalconAgentError as error:
        if not events.to_journal:
            raise
        # As one event; the lines of a message are events of their own there.
        log.error("%s", error)  # noqa: TRY400  a user's mistake
        return UNUSABLE if isinstance(error, ConfigError) else FAILED
    except Exception:
        log.exception("the agent ends: unexpected error")
        logging.shutdown()
        # Leaving in the usual way would wait for the thread of a cycle, which may hang.
        os._exit(FAILED)


def _allow_descriptors() -> None:
    """Raise the soft limit, which is low for the sake of select(2), towards the hard one: control files stay open."""
    # A unit may refuse the call, and has set the limit itself then.
    with suppress(OSError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        if resource.RLIM_INFINITY != soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _serve(args: argparse.Namespace, events: EventHandler, manager: ServiceManager) -> int:
    keep_little()
    collect_seldom()
    _allow_descriptors()
    validated = validating(args)
    # Loaded while the other process validates.
    from falcon_agent.agent import Agent  # noqa: PLC0415
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415

    chosen = validated()
    logging.getLogger().setLevel(chosen.log.level.upper())
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    # Blocked before any thread starts, so that all of them inherit it and sigwait below gets every signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    stat = SelfStat()
    refused = ""

    def status() -> str:
        return (
            status_line(stat.value("containers"), stat.value("collect.duration"), agent.waiting()) + refused
        )

    def cycle_ended() -> None:
        events.write_due()
        if manager.listens:
            manager.cycle_ended(status())

    agent = Agent(chosen, stat, cycle_ended)
    manager.status("starting: looking for containers")
    agent.start()
    manager.ready(status(), chosen.agent.step)
    log.info("started: step %d s, pushing to %s", chosen.agent.step, ", ".join(chosen.transfer.addresses))
    while (received := signal.sigwait(signals)) == signal.SIGHUP:
        manager.reloading()
        # Who mends a configuration wants to see what is still wrong, and not that it was repeated.
        events.write_all()
        try:
            wanted = validating(args)()
            agent.reload(wanted)
        except FalconAgentError as error:
            refused = f"; reload refused: {error}"
            manager.ready(status())
            log.error("reload refused, the old configuration stays: %s", error)  # noqa: TRY400  a user's mistake
        else:
            chosen, refused = wanted, ""
            logging.getLogger().setLevel(chosen.log.level.upper())
            manager.ready(status(), chosen.agent.step)
            log.info("reloaded: step %d s", chosen.agent.step)
    manager.stopping()
    log.info("stopping on %s", signal.Signals(received).name)
    if not agent.stop():
        # Leaving in the usual way would wait for the stuck thread.
        logging.shutdown()
        os._exit(0)
    return 0
