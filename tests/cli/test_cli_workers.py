"""``warmboot worker`` against the in-memory services."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.cli.conftest import Cli, Served

from warmboot.model.checkpoint import ChangedFile
from warmboot.model.errors import HostError
from warmboot.model.worker import WorkerState


def test_a_worker_is_run_paused_resumed_and_removed(cli: Cli) -> None:
    made = cli("worker", "run", "--name", "crawler", "my/crawler:3", "crawl", "--fast")
    assert made.returncode == 0, made.stderr
    worker_id = made.stdout.strip()
    assert cli("worker", "pause", "crawler").stdout == "crawler\n"
    shown = json.loads(cli("worker", "show", "crawler", "--json").stdout)
    assert (shown["id"], shown["state"]) == (worker_id, "paused")
    assert shown["command"] == ["crawl", "--fast"]
    assert "paused" in cli("worker", "ls").stdout
    assert cli("worker", "ls", "-q").stdout.strip() == worker_id
    assert json.loads(cli("worker", "resume", "crawler", "--json").stdout)[0]["state"] == "running"
    assert cli("worker", "wake", "crawler").returncode == 0
    assert "counts 3" in cli("worker", "logs", "-n", "1", "crawler").stdout
    assert cli("worker", "rm", "crawler").returncode == 1
    assert cli("worker", "rm", "-f", "crawler").stdout == "crawler\n"
    assert json.loads(cli("worker", "ls", "--json").stdout) == []


def test_a_resume_tells_which_files_in_mounts_have_changed(cli: Cli, served: Served) -> None:
    cli("worker", "run", "--name", "one", "app:1")
    cli("worker", "pause", "one")
    served.fakes.workers.changed_files = (
        ChangedFile("/data/log", 7, 29),
        ChangedFile("/data/\x1bgone", 3, None),
    )
    done = cli("worker", "resume", "one")
    assert (done.returncode, done.stdout) == (0, "one\n")
    assert done.stderr.splitlines() == [
        "one had /data/log open, which has changed since the checkpoint (7 bytes then, 29 now)",
        "one had '/data/\\x1bgone' open, which has changed since the checkpoint "
        "(3 bytes then, it is gone)",
    ]
    cli("worker", "pause", "one")
    (told,) = json.loads(cli("worker", "resume", "one", "--json").stdout)
    assert told["changed_files"][0] == {
        "path": "/data/log",
        "size_then_bytes": 7,
        "size_bytes": 29,
    }


def test_removing_by_force_what_is_not_there_succeeds_as_of_containers(cli: Cli) -> None:
    cli("worker", "run", "--name", "there", "app:1")
    done = cli("worker", "rm", "-f", "nobody", "there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "there\n", "")
    assert cli("worker", "rm", "nobody").returncode == 1


def test_the_policy_is_passed_on(cli: Cli) -> None:
    words = "--idle 60 --every 30 --keep 5 --pause-at-shutdown --wake-on 8080 -e A=b -v /a:/b:ro"
    made = cli("worker", "run", "--json", "--name", "kept", *words.split(), "app:1")
    worker = json.loads(made.stdout)
    assert worker["policy"] == {
        "pause_after_idle_s": 60,
        "checkpoint_every_s": 30,
        "keep_checkpoints": 5,
        "pause_at_shutdown": True,
        "wake_on": [8080],
    }
    assert worker["environment"] == {"A": "b"}
    assert worker["mounts"] == [{"source": "/a", "target": "/b", "read_only": True}]
    shown = cli("worker", "show", "kept").stdout
    assert "the engine's own, so pauses are slow: run `warmboot doctor --fix`" in " ".join(
        shown.split()
    )
    assert "pause when idle" in shown
    assert "8080" in shown


def test_checkpoints_are_made_listed_and_deleted(cli: Cli) -> None:
    cli("worker", "run", "--name", "one", "app:1")
    assert cli("worker", "checkpoint", "one", "--name", "early").stdout == "early\n"
    assert "early" in cli("worker", "checkpoints", "one").stdout
    assert cli("worker", "checkpoints", "one", "-q").stdout == "early\n"
    assert json.loads(cli("worker", "checkpoints", "one", "--rm", "early", "--json").stdout) == []


def test_an_archive_goes_out_and_in(cli: Cli, tmp_path: Path) -> None:
    cli("worker", "run", "--name", "old", "app:1")
    cli("worker", "pause", "old", "-c", "leaving")
    file = tmp_path / "leaving.tar.zst"
    assert cli("worker", "export", "old", "leaving", str(file)).stdout.strip() == str(file)
    assert file.read_bytes() == b"the archive of leaving"
    nowhere = cli("worker", "export", "old", "leaving", str(tmp_path / "no" / "where"))
    assert nowhere.returncode == 1
    assert "could not be written" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr
    cli("worker", "run", "--no-start", "--name", "new", "app:1")
    assert "created, not started" in cli("worker", "ls").stdout
    assert cli("worker", "import", "new", str(file)).stdout == "imported\n"
    assert json.loads(cli("worker", "show", "new", "--json").stdout)["state"] == "paused"
    broken = tmp_path / "broken"
    broken.write_bytes(b"nothing")
    refused = cli("worker", "import", "new", str(broken))
    assert refused.returncode == 1
    assert "new is paused" in refused.stderr
    cli("worker", "run", "--no-start", "--name", "next", "app:1")
    refused = cli("worker", "import", "next", str(broken))
    assert refused.returncode == 1
    assert "no archive" in refused.stderr


def test_a_list_says_why_a_worker_has_failed(cli: Cli, served: Served) -> None:
    cli("worker", "run", "--name", "ww", "app:1")
    rows = served.fakes.workers.rows
    (worker,) = rows.values()
    error = HostError("the engine has no memory left").as_dict()
    rows[worker.id] = replace(worker, state=WorkerState.FAILED, error=error)
    assert "failed: the engine has no memory left" in cli("worker", "ls").stdout


def test_a_pause_and_a_resume_have_a_limit(cli: Cli, served: Served) -> None:
    cli("worker", "run", "--name", "long", "app:1", "slow")
    for words in (("pause", "--timeout", "1.5"), ("checkpoint", "--timeout", "1.5")):
        late = cli("worker", *words, "long")
        assert late.returncode == 1
        assert "within the 1.5 s" in late.stderr
        assert json.loads(cli("worker", "show", "long", "--json").stdout)["state"] == "running"
    assert cli("worker", "pause", "--timeout", "90", "long").returncode == 0
    assert cli("worker", "resume", "--timeout", "2", "long").returncode == 1
    assert json.loads(cli("worker", "show", "long", "--json").stdout)["state"] == "paused"
    assert cli("worker", "resume", "--timeout", "90", "long").returncode == 0
    for wrong in ("0", "-1", "nan", "inf", "soon", "86401"):
        assert cli("worker", "pause", "--timeout", wrong, "long").returncode == 2, wrong


def test_flags_have_no_double_negation(cli: Cli) -> None:
    shown = cli("worker", "run", "--help").stdout
    assert "--no-start" in shown
    assert "--no-no-start" not in shown
    assert "--no-pause-at-shutdown" not in shown


def test_what_cannot_be_is_said_in_a_few_lines(cli: Cli) -> None:
    refused = cli("worker", "run", "--network", "bridge", "app:1")
    assert refused.returncode == 1
    assert "next:" in refused.stderr
    cli("worker", "run", "--name", "stuck", "app:1", "undumpable")
    failed = cli("worker", "pause", "stuck")
    assert failed.returncode == 1
    assert "Error (criu/" in failed.stderr
    unknown = cli("worker", "resume", "nobody")
    assert "there is no worker nobody" in unknown.stderr
    assert cli("worker", "run", "-v", "here", "app:1").returncode == 2
    assert cli("doctor", "--restart-engine").returncode == 2
