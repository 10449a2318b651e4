"""HUP: a valid configuration is switched to at once, anything else changes nothing and says why."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from agent_process import AgentProcess, Site, until

QUIET = {"check_command": "false", "jet_command": "true", "check_interval": 3600}


def reload(site: Site, agent: AgentProcess, config: dict[str, Any] | str, nth: int = 1) -> dict[str, Any]:
    """Switch to another watch.yml, and what came of it: the `nth` reload that is told."""
    site.configure(config)
    agent.send(signal.SIGHUP)
    return agent.wait_for("config_reloaded", nth=nth)


def test_the_same_configuration_changes_nothing(site: Site) -> None:
    """It is told that nothing changed, and the timers go on."""
    agent = site.start(QUIET, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished")
    before = site.standing()["next_check"]
    assert reload(site, agent, QUIET)["changed"] is False
    assert site.standing()["next_check"][:22] == before[:22]
    assert len(agent.told("check_finished")) == 1


def test_a_changed_watch_is_switched_at_once_and_the_others_keep_their_timers(site: Site) -> None:
    """New and changed watches begin anew and are checked, unchanged ones are left alone, removed ones end."""
    config = {"defaults": QUIET, "watches": {"same": {}, "changed": {}, "removed": {}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    for watch in ("same", "changed", "removed"):
        agent.wait_for("check_finished", watch=watch)
    before = site.standing("same")["next_check"]
    new = {"defaults": QUIET, "watches": {"same": {}, "changed": {"check_command": "true"}, "new": {}}}
    line = reload(site, agent, new)
    assert (line["added"], line["altered"], line["removed"]) == (["new"], ["changed"], ["removed"])
    agent.wait_for("run_finished", watch="changed")
    agent.wait_for("check_finished", watch="new")
    assert site.standing("same")["next_check"][:22] == before[:22]
    assert len(agent.told("check_finished", watch="same")) == len(agent.told("check_finished", watch="removed")) == 1
    assert [each["watch"] for each in site.data("status")["watches"]] == ["changed", "new", "same"]


def test_new_and_changed_watches_draw_their_splay(site: Site) -> None:
    """They wait within their splay like at start-up; an unchanged one does not again."""
    config = {"defaults": {**QUIET, "splay": 1000}, "watches": {"same": {}, "changed": {}}}
    agent = site.start(config, "--log-level", "debug")
    agent.wait_for("splay_started", watch="changed")
    changed = {"check_interval": 1800}
    reload(site, agent, {**config, "watches": {"same": {}, "changed": changed, "new": {}}})
    agent.wait_for("splay_started", watch="changed", nth=2)
    agent.wait_for("splay_started", watch="new")
    assert len(agent.told("splay_started", watch="same")) == 1


def test_an_open_run_ends_with_the_configuration_it_began_with(site: Site) -> None:
    """Play and hooks of the open run stay what they were; the next run has the new ones."""
    gate = site.gate()

    def config(name: str) -> dict[str, Any]:
        return {
            "check_command": "true",
            "check_interval": 1,
            "download_command": site.shell(gate.text),
            "jet_command": site.shell(f"echo play {name} >> told"),
            "on_ok": site.shell(f"echo hook {name} >> told"),
        }

    agent = site.start(config("old"), "--no-splay")
    agent.wait_for("step_started", step="download")
    reload(site, agent, config("new"))
    gate.open()
    agent.wait_for("step_finished", step="on_ok", nth=2)
    assert site.read_lines("told")[:4] == ["play old", "hook old", "play new", "hook new"]


def test_the_removal_of_a_watch_never_stops_its_open_run(site: Site) -> None:
    """The run goes on to its end with its hooks, then the watch is gone from the status."""
    gate = site.gate()
    watch = {"check_command": "true", "jet_command": site.shell(gate.text), "on_ok": site.shell("echo told > hook")}
    agent = site.start({"defaults": QUIET, "watches": {"stays": {}, "goes": watch}}, "--no-splay")
    agent.wait_for("step_started", watch="goes", step="play")
    reload(site, agent, {"defaults": QUIET, "watches": {"stays": {}}})
    gate.open()
    agent.wait_for("run_finished", watch="goes", outcome="ok")
    agent.wait_for("step_finished", watch="goes", step="on_ok")
    assert site.read("hook") == "told\n"
    until(lambda: [each["watch"] for each in site.data("status")["watches"]] == ["stays"])


def test_a_watch_that_comes_back_is_remembered(site: Site) -> None:
    """Its suspension and what it applied last are still known when it is removed and added again."""
    told = 'echo "$JETWATCH_APPLIED_REVISION" >> told; echo revision=r1 > "$JETWATCH_OUTPUT"; exit "$(cat answer)"'
    site.answer(0)
    watch = {"check_command": site.shell(told), "jet_command": "true"}
    both = {"defaults": QUIET, "watches": {"stays": {}, "goes": watch}}
    agent = site.start(both, "--no-splay", "--log-level", "debug")
    agent.wait_for("run_finished", watch="goes", outcome="ok")
    site.answer(1)
    reload(site, agent, {"defaults": QUIET, "watches": {"stays": {}}})
    until(lambda: [each["watch"] for each in site.data("status")["watches"]] == ["stays"])
    reload(site, agent, both, nth=2)
    agent.wait_for("check_finished", watch="goes", result="not_due")
    assert site.read_lines("told") == ["", "r1"]
    site.jetp("suspend", "goes", "--reason", "x")
    reload(site, agent, {"defaults": QUIET, "watches": {"stays": {}}}, nth=3)
    reload(site, agent, both, nth=4)
    agent.wait_for("check_finished", watch="goes", result="skipped", reason="suspended")


@pytest.mark.parametrize("kind", ["invalid", "gone", "not yaml"])
def test_a_configuration_that_will_not_do_changes_nothing(site: Site, kind: str) -> None:
    """`config_rejected` says what is wrong; the last good one stays; status shows it until one is good again."""
    agent = site.start({**QUIET, "check_interval": 1}, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished")
    if kind == "gone":
        site.config.unlink()
    else:
        site.config.write_text("check_intervall: 3\njet_command: 'true'\n" if kind == "invalid" else "a: [\n")
    agent.send(signal.SIGHUP)
    rejected = agent.wait_for("config_rejected")
    assert str(site.config) in rejected["problems"][0]
    number = len(agent.told("check_finished"))
    agent.wait_for("check_finished", nth=number + 2)
    assert "rejected" in site.jetp("status").stdout
    assert site.data("status")["config_rejected"]
    site.jetp("status", "--check", code=1)
    assert "rejected" in site.jetp("why").stdout
    reload(site, agent, {**QUIET, "check_interval": 1})
    assert site.data("status")["config_rejected"] is None
    site.jetp("status", "--check")


@pytest.mark.parametrize("key", [{"max_runs": 2}, {"stop": "wait"}, {"download_dir": "/tmp/elsewhere"}])
def test_an_agent_wide_key_changes_with_a_restart_only(site: Site, key: dict[str, Any]) -> None:
    """It is rejected by name, and so is what else changed in the same file."""
    agent = site.start(QUIET, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished")
    site.configure({**QUIET, **key, "check_command": "true"})
    agent.send(signal.SIGHUP)
    assert next(iter(key)) in agent.wait_for("config_rejected")["problems"][0]
    agent.send(signal.SIGUSR1)
    agent.wait_for("check_finished", result="not_due", nth=2)
    assert agent.told("run_started") == []
    agent.stop()
    assert site.start(None, "--no-splay").wait_for("run_finished")["outcome"] == "ok"


def test_several_hups_at_once_end_with_the_newest_configuration(site: Site) -> None:
    """However quickly they come, what is on disk after the last one is in force in the end."""
    agent = site.start(QUIET, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished")
    for interval in range(1801, 1821):
        site.configure({**QUIET, "check_interval": interval})
        agent.send(signal.SIGHUP)
    site.configure({**QUIET, "check_command": "true"})
    agent.send(signal.SIGHUP)
    agent.wait_for("run_finished", outcome="ok")


def test_a_directory_of_files_is_read_again(site: Site) -> None:
    """`--watch-config DIR`: a file that was added is a watch that was added; the name is the file's."""
    folder = site.root / "watch.d"
    folder.mkdir()
    (folder / "one.yml").write_text("check_command: 'false'\njet_command: 'true'\n")
    (folder / "ignored.txt").write_text("no configuration")
    site.config = folder
    agent = site.start(None, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", watch="one")
    (folder / "two.yml").write_text("check_command: 'false'\njet_command: 'true'\n")
    agent.send(signal.SIGHUP)
    assert agent.wait_for("config_reloaded")["added"] == ["two"]
    agent.wait_for("check_finished", watch="two")


def test_hup_while_a_check_runs_drops_nothing_of_an_unchanged_watch(site: Site) -> None:
    """A check of an unchanged watch goes on and counts; that of a changed one is ended and asked anew."""
    gate = site.gate()
    slow = {"check_command": site.shell(f"echo $JETWATCH_WATCH >> begun; {gate.text}; exit 1")}
    config = {"defaults": {**QUIET, **slow}, "watches": {"same": {}, "changed": {}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    until(lambda: len(site.read_lines("begun")) == 2)
    reload(site, agent, {**config, "watches": {"same": {}, "changed": {"check_interval": 1800}}})
    until(lambda: len(site.read_lines("begun")) == 3)
    gate.open()
    for watch in ("same", "changed"):
        agent.wait_for("check_finished", watch=watch, result="not_due")
    assert sorted(site.read_lines("begun")) == ["changed", "changed", "same"]
    assert len(agent.told("check_finished")) == 2


def test_a_rejection_with_thousands_of_problems_is_kept_short(site: Site) -> None:
    """Status shows the first of them and how many there are: the journal is not to hold megabytes of them."""
    agent = site.start(QUIET, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished")
    site.config.write_text("".join(f"k{number}: x\n" for number in range(5000)))
    agent.send(signal.SIGHUP)
    agent.wait_for("config_rejected")
    rejected = site.data("status")["config_rejected"].splitlines()
    assert rejected[0] == f"{site.config}:1: k0: no such key"
    assert rejected[20:] == ["… and 4980 more: see `jetp check-config`"]


def test_what_keeps_the_loader_from_working_is_a_rejection(site: Site) -> None:
    """Not only a bad file: whatever goes wrong while it is read, the agent says so, works on and can reload again."""
    fault = "import jetwatch.config.yaml_file as y, os\n_read = y.read\n"
    fault += f"y.read = lambda *a: 1 / 0 if os.path.exists('{site.root}/fault') else _read(*a)\n"
    folder = site.root / "fault.d"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(fault)
    site.configure(QUIET)
    agent = site.start(None, "--no-splay", "--log-level", "debug", environ={"PYTHONPATH": str(folder)})
    agent.wait_for("check_finished")
    (site.root / "fault").touch()
    agent.send(signal.SIGHUP)
    assert "ZeroDivisionError" in agent.wait_for("config_rejected")["problems"][0]
    (site.root / "fault").unlink()
    agent.send(signal.SIGHUP)
    agent.wait_for("config_reloaded")
    assert agent.stop() == 0
    assert agent.errors == ""
