"""Workers elsewhere: the same replies through a shell, through a real sshd, through adb."""

import os
import signal
import sys
import time
from contextlib import ExitStack, suppress

import psutil
import pytest

from edgekd.bench import transport
from edgekd.bench.gate import gate
from edgekd.bench.measure import measure, prepare
from edgekd.bench.sequential import Plan
from edgekd.bench.worker import write_feeds
from edgekd.errors import InconclusiveError, InputError, MissingDependency
from edgekd.profiles import Profile

FIGURE = {"value": "8 GB", "source": "https://example.org"}


@pytest.fixture
def kiosk():
    return Profile(
        name="kiosk", title="a kiosk", target="probe", where="elsewhere",
        hardware={"cpu": FIGURE, "memory": FIGURE},
    )  # fmt: skip


def shell(tmp_path):
    """A machine that is reached through ``sh -c``, everything but the network."""
    return transport.Remote(["sh", "-c"], "the shell", str(tmp_path), sys.executable)


@pytest.fixture
def probe_there(monkeypatch):
    """The third party's exporter is installed on the other machine too."""
    monkeypatch.setattr(transport, "_WORKER_PATH", "{worker}:$PYTHONPATH")


def test_remote_measurement_is_the_hardwares_own(tmp_path, make_bundle, kiosk, rows, probe_there):
    bundle = make_bundle()
    there = tmp_path / "there"
    there.mkdir()
    with shell(there) as place:
        found = measure(bundle.path, kiosk, rows, rounds=1, seconds=0.02, transport=place)
        assert list(there.iterdir())
    assert found.evidence == "measured" and found.peak_memory_bytes is not None
    assert not list(there.iterdir())  # nothing is left on the device


def test_machine_without_the_right_python(tmp_path):
    remote = transport.Remote(["sh", "-c"], "the shell", str(tmp_path), "no-such-python")
    with pytest.raises(InconclusiveError, match=r"Python 3\.11"), remote:
        pass
    assert not list(tmp_path.iterdir())


def test_machine_that_does_not_answer(tmp_path):
    with (
        pytest.raises(InconclusiveError, match="does not answer"),
        transport.Remote(["false"], "the machine", str(tmp_path)),
    ):
        pass


def test_no_android_device(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="platform-tools"):
        transport.adb()
    adb = tmp_path / "adb"
    adb.write_text("#!/bin/sh\necho 'List of devices attached'\n")
    adb.chmod(0o755)
    with pytest.raises(InconclusiveError, match="no Android device answers"):
        transport.adb()
    adb.write_text("#!/bin/sh\nprintf 'List of devices attached\\nX1\\tdevice\\nX2\\tdevice\\n'\n")
    with pytest.raises(InputError, match="2 Android devices"):
        transport.adb()
    assert transport.adb("X2").shell == ["adb", "-s", "X2", "shell", "-T"]


ADB = """#!/bin/sh
[ "$1" = devices ] && { echo 'List of devices attached'; printf 'X1\\tdevice\\n'; exit; }
[ "$1 $2 $3 $4" = '-s X1 shell -T' ] || { echo "adb: $*" >&2; exit 2; }
shift 4
exec sh -c "$*"
"""


def test_an_android_phone_differs_in_the_transport_alone(
    tmp_path, make_bundle, kiosk, rows, probe_there, monkeypatch
):
    """An adb that runs the phone's shell lines here: the same worker, the same JSON."""
    program, phone = tmp_path / "bin" / "adb", tmp_path / "phone"
    program.parent.mkdir()
    phone.mkdir()
    program.write_text(ADB)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(transport, "_ANDROID_FOLDER", str(phone))
    with transport.parse("adb", sys.executable) as place:
        found = measure(
            make_bundle().path, kiosk, rows, rounds=1, seconds=0.02, memory=False, transport=place
        )
        assert list(phone.iterdir())
    assert found.evidence == "measured" and len(found.samples) >= 40
    assert not list(phone.iterdir())


def test_gate_on_the_hardware_itself(tmp_path, make_bundle, kiosk, rows, probe_there):
    short = Plan(looks=(1,), errors=(0.5,), confirm=1, slices=1, control_tolerance=1e9)
    with shell(tmp_path) as place:
        slow = make_bundle("slow", work=200).path
        found = gate(make_bundle("base").path, slow, kiosk, rows, short, transport=place)
    assert found.verdict == "regressed" and len(found.outcome.confirmation) == 1
    assert found.environment["cores"] and found.environment["steal_percent"] is None


@pytest.mark.parametrize("text", ["telnet:host", "ssh:", "somewhere"])
def test_names_of_no_machine(text):
    with pytest.raises(InputError, match="names no machine"):
        transport.parse(text)


@pytest.fixture(scope="module")
def loopback():
    """A real sshd on loopback with a key of its own: (address, ssh options)."""
    from benchmarks.loopback import sshd

    with ExitStack() as stack:
        try:
            server = stack.enter_context(sshd())
        except MissingDependency as error:
            pytest.skip(str(error))
        yield server


def test_over_ssh_as_in_place(loopback, make_bundle, kiosk, rows, monkeypatch):
    """The same worker answers through a real sshd; the probe travels by PYTHONPATH."""
    address, options = loopback
    path = f"{{worker}}:{os.environ['PYTHONPATH']}"
    monkeypatch.setattr(transport, "_WORKER_PATH", path)
    with transport.ssh(address, options, python=sys.executable) as place:
        found = measure(
            make_bundle().path, kiosk, rows, rounds=1, seconds=0.02, memory=False, transport=place
        )
    assert found.evidence == "measured"
    assert found.session["runtime"] == "probe" and len(found.samples) >= 40
    assert "127.0.0.1" not in str(found.to_dict()["details"]["environment"])


def _worker_of(place):
    """The process that runs the worker which was sent to ``place``; None where there is none."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PYTHONPATH", "").startswith(place._folder):
                return process
    return None


def test_worker_does_not_outlive_a_killed_ssh(
    loopback, make_bundle, kiosk, rows, monkeypatch, tmp_path
):
    """It hangs inside an inference, so it would not look at its input for an hour."""
    address, options = loopback
    path = f"{{worker}}:{os.environ['PYTHONPATH']}"
    monkeypatch.setattr(transport, "_WORKER_PATH", path)
    bundle = make_bundle(fail="hang")
    write_feeds(tmp_path / "feeds.npz", [bundle.encode(rows[:1])])
    with transport.ssh(address, options, python=sys.executable) as place:
        with place.start("the worker") as runner:
            prepare(runner, bundle, tmp_path / "feeds.npz", kiosk, place)
            runner.ask("open")
            runner._process.stdin.write(b'{"do": "first"}\n')
            runner._process.stdin.flush()
            time.sleep(0.5)
            worker = _worker_of(place)
            assert worker.is_running()
            os.kill(runner._process.pid, signal.SIGKILL)
        worker.wait(timeout=20)
        assert _worker_of(place) is None
