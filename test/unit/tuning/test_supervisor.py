"""The tuner outlives its child: crashes, hangs, lies and garbage cost the candidate alone."""

import pytest

from sparseflow.errors import TuningError
from sparseflow.runtime.tuning.protocol import Request
from sparseflow.runtime.tuning.supervisor import MAX_DEATHS, Supervisor

REQUEST = Request("bfloat16", 4096, 4096, 16)
ALL = ["0 0", "1 0", "1 -1", "2 0", "3 0", "4 0", "5 0"]


def measure(command, *requests, **options):
    with Supervisor(command, **options) as supervisor:
        outcomes = [supervisor.measure(request) for request in requests or (REQUEST,)]
    return outcomes[0] if len(outcomes) == 1 else outcomes


def failures(point):
    return {f"{f.algorithm} {f.split_k}": f.why for f in point.failed}


def best(point):
    return [c.algorithm for c in point.candidates]


def test_a_good_child_gives_the_point_with_its_fastest_candidates_first(fake):
    point = measure(fake())
    assert (point.dense_us, point.unpacked_us, point.dense_bf16_us) == (20.0, 25.0, None)
    assert best(point) == [5, 4, 3, 2]
    assert point.failed == ()
    assert fake.tried() == ["start", *ALL]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("crash", "died with signal SIGSEGV: warming up"),
        ("exit", "exit code 3: CUDA error: an illegal instruction was encountered"),
        ("hang", "hung: no word for 2 s"),
        ("context", "the library's words"),
    ],
)
def test_a_candidate_that_ends_its_child_is_named_and_nothing_is_measured_twice(fake, how, why):
    point = measure(fake(do={"3 0": how}), patience=2 if how == "hang" else 60)
    assert failures(point) == {"3 0": why}
    assert best(point) == [5, 4, 2, 1]
    assert fake.tried() == ["start", *ALL[:5], "start", *ALL[5:]]


def test_candidates_that_end_their_child_in_the_last_round_only_are_named_too(fake):
    point = measure(fake(final={"5 0": "crash", "4 0": "exit", "3 0": "crash"}))
    assert sorted(failures(point)) == ["3 0", "4 0", "5 0"]
    assert best(point) == [2, 1, 1, 0]
    assert fake.tried() == ["start", *ALL, "start", "start", "start"]


def test_what_ended_a_child_is_not_tried_at_the_next_point(fake):
    command = fake(do={"3 0": "crash"})
    _, later, other = measure(
        command, REQUEST, Request("bfloat16", 512, 512, 32), Request("float8_e4m3fn", 512, 512, 32)
    )
    died = "died with signal SIGSEGV: warming up"
    not_tried = f"not tried: it ended the measuring process at 4096×4096, M=16 ({died})"
    assert failures(later) == {"3 0": not_tried}
    assert best(later) == [5, 4, 2, 1]
    assert failures(other) == {"3 0": died}
    assert fake.tried().count("3 0") == 2


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ("negative", "reported a time of -1 µs"),
        ("nan", "reported a time of nan µs"),
        ("text", "reported a time of nan µs"),
        ("nan error", "wrong product: relative error nan, at most 0.008 is right in bfloat16"),
        ("wrong", "wrong product: relative error 0.3, at most 0.008 is right in bfloat16"),
        ("refused", "the library's words"),
    ],
)
def test_a_lie_or_a_refusal_is_a_failure_and_the_rest_is_tuned_by_the_same_child(fake, lie, why):
    point = measure(fake(do={"5 0": lie}))
    assert failures(point) == {"5 0": why}
    assert best(point) == [4, 3, 2, 1]
    assert fake.tried().count("start") == 1


@pytest.mark.parametrize("stray", [(99, 0), (0, 0)])
def test_a_candidate_that_was_not_asked_for_is_not_believed(fake, stray):
    point = measure(fake(stray=stray))
    assert failures(point) == {f"{stray[0]} 0": "reported without having been asked for"}
    assert best(point) == [5, 4, 3, 2]


def test_the_last_message_is_checked_too(fake):
    said = [
        {"backend": "cusparselt", "algorithm": 5, "split_k": 0, "us": -2.0, "rel_err": 1e-4},
        {"backend": "cusparselt", "algorithm": 4, "split_k": 0, "us": 3.0, "rel_err": 0.5},
        {"backend": "cusparselt", "algorithm": 7, "split_k": 0, "us": 1.0, "rel_err": 1e-4},
        {"backend": "cusparselt", "algorithm": 2, "split_k": 0, "us": 9.0, "rel_err": 1e-4},
    ]
    point = measure(fake(done={"candidates": said}))
    assert best(point) == [2]
    assert sorted(failures(point)) == ["4 0", "5 0", "7 0"]


def test_lines_that_are_no_messages_are_counted_and_dropped(fake):
    with Supervisor(fake(garbage=True)) as supervisor:
        point = supervisor.measure(REQUEST)
    assert (best(point), point.failed) == ([5, 4, 3, 2], ())
    assert supervisor.garbage > 50


def test_a_child_that_exits_after_its_results_is_started_again(fake):
    points = measure(fake(after=7), REQUEST, Request("bfloat16", 4096, 4096, 32), REQUEST)
    assert [best(point) for point in points] == [[5, 4, 3, 2]] * 3
    assert fake.tried().count("start") == 3


@pytest.mark.parametrize(("start", "why"), [("crash", "SIGSEGV: warming up"), ("exit", "exit code 3")])
def test_a_child_that_never_works_ends_the_tuning_with_its_last_words(fake, start, why):
    with pytest.raises(TuningError, match=why) as caught:
        measure(fake(start=start))
    assert str(caught.value.rule).splitlines()[1] == "warming up"
    assert fake.tried() == ["start", "start"]


def test_a_child_that_hangs_before_its_first_word_ends_the_tuning(fake):
    with pytest.raises(TuningError, match=r"hung: no word for 0\.2 s"):
        measure(fake(start="hang"), patience=0.2, startup=0.2)


def test_a_program_that_is_not_there_is_an_error_and_no_traceback():
    with pytest.raises(TuningError, match="does not start"):
        measure(["/nowhere/python"])


def test_a_dense_time_that_is_none_cannot_be_a_point(fake):
    with pytest.raises(TuningError, match="reported nan as dense_us"):
        measure(fake(done={"dense_us": float("nan")}))


def test_a_child_with_another_library_is_refused(fake):
    with pytest.raises(TuningError, match=r"for cuSPARSELt 0.8.0, the measuring process has 0.10.0"):
        measure(fake(), cusparselt="0.8.0")


def test_plans_that_crash_when_built_together_are_built_one_by_one(fake):
    point = measure(fake(plans="crash"))
    assert (best(point), point.failed) == ([5, 4, 3, 2], ())


def test_a_dtype_whose_candidates_all_die_is_given_up_and_others_go_on(fake):
    do = {f"{algorithm} {split_k}": "exit" for algorithm in range(12) for split_k in (0, -1)}
    command = fake(count=12, do=do)
    first, later = measure(command, REQUEST, Request("bfloat16", 4096, 4096, 32))
    assert first.candidates == ()
    assert len([f for f in first.failed if f.split_k == 0]) == 12
    assert len([f for f in first.failed if f.why.startswith("exit code 3")]) == MAX_DEATHS
    assert later.startswith(f"given up: {MAX_DEATHS} candidates ended the measuring process")
    assert fake.tried().count("start") == MAX_DEATHS + 1
