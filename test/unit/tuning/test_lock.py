"""One tuning at a time."""

import threading
import time

from sparseflow.runtime.tuning.lock import alone


def ignore():
    pass


def test_a_second_one_waits_until_the_first_is_done(tmp_path):
    path, events = tmp_path / "folder" / "a.tuning", []
    with alone(path, time.monotonic() + 60, ignore) as mine:
        assert mine

        def second():
            with alone(path, time.monotonic() + 60, lambda: events.append("waiting")) as held:
                events.append(held)

        thread = threading.Thread(target=second)
        thread.start()
        while not events:
            time.sleep(0.01)
        assert events == ["waiting"]
    thread.join(60)
    assert events == ["waiting", True]


def test_who_waited_long_enough_goes_without(tmp_path):
    path = tmp_path / "a.tuning"
    with alone(path, 0, ignore) as first, alone(path, 0, ignore) as second:
        assert (first, second) == (True, False)
    with alone(path, 0, ignore) as again:
        assert again


def test_a_folder_that_cannot_be_written_to_has_no_locks(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with alone(file / "a.tuning", 0, ignore) as mine:
        assert mine
