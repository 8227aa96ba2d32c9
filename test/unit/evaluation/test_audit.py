"""An audit: patterns, intervals, answers, and the report of tiny models."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.evaluation.audit import answers, pattern_check, text_scores, usual_texts
from sparseflow.evaluation.audit.intervals import bootstrap, wilson
from sparseflow.reports.audit_page import audit_page
from sparseflow.reports.html import html
from sparseflow.reports.markdown import markdown


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"[UNK]": 0, **{f"w{i}": i for i in range(1, 96)}}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


def pair():
    torch.manual_seed(0)
    dense = zoo.text_model("llama")
    with torch.no_grad():
        for parameter in dense.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model = copy.deepcopy(dense)
    report = sf.prune(model)
    return model, dense, {layer.name: "2:4" for layer in report.layers if layer.method}


SMALL = sf.evaluation.AuditOptions(window=16, windows=4, prompts=5, new_tokens=8, batch=3)


def test_there_are_200_prompts_and_100_questions_each_once():
    assert len(set(answers.prompts())) == len(answers.prompts()) == 200
    asked = [question for question, _ in answers.questions()]
    assert len(set(asked)) == len(asked) == 100
    assert all(right and all(right) for _, right in answers.questions())


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("The capital is Paris.", ("Paris",), True),
        ("PARIS", ("paris",), True),
        ("Parisian", ("Paris",), False),
        ("It is 56.", ("56", "fifty-six"), True),
        ("156", ("56",), False),
        ("au revoir", ("Au",), False),
        ("In South America it is", ("South America",), True),
        ("", ("Rome",), False),
    ],
)
def test_an_answer_is_right_if_it_has_the_word(answer, accepted, right):
    assert answers.is_right(answer, accepted) is right


def test_repetition_is_the_share_of_4_grams_seen_before():
    assert answers.repetition(torch.tensor([1, 2, 3])) == 0
    assert answers.repetition(torch.arange(9)) == 0
    assert answers.repetition(torch.ones(8, dtype=torch.int64)) == pytest.approx(4 / 5)


def test_intervals_are_those_of_the_books():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == 1
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator, dtype=torch.float64)
    low, high = bootstrap(values.tolist(), 0)
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.02)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.02)
    assert bootstrap(values.tolist(), 0) == (low, high)


def test_a_pattern_holds_for_every_group_and_the_rest():
    weight = torch.zeros(3, 10)
    weight[:, [0, 1, 4, 5, 8, 9]] = 1
    assert pattern_check.has_pattern(weight, "2:4")
    weight[2, 2] = -0.0
    assert pattern_check.has_pattern(weight, "2:4")
    weight[2, 2] = math.nan
    assert not pattern_check.has_pattern(weight, "2:4")
    assert pattern_check.has_pattern(weight, "6:8")
    assert pattern_check.has_pattern(torch.ones(2, 3), "6:8")
    for wrong in ("4:2", "2", "0:4", "a:b"):
        with pytest.raises(ArgumentError, match="n:m"):
            pattern_check.has_pattern(weight, wrong)


def test_a_weight_that_isnt_what_it_claims_is_found():
    model, _, claims = pair()
    assert not pattern_check.check_patterns(model, claims).failures
    name, layer = next((n, m) for n, m in model.named_modules() if n in claims)
    with torch.no_grad():
        layer.weight[0, :8] = 1
    (failure,) = pattern_check.check_patterns(model, claims).failures
    assert failure.startswith(f"{name} is said to be 2:4")
    found = {one.name: one.pattern for one in pattern_check.check_patterns(model, claims).layers}
    assert found[name] == "dense"
    assert found["lm_head"] == "dense"
    (failure,) = pattern_check.check_patterns(pair()[0], claims | {"gone": "2:4"}).failures
    assert "no such layer" in failure


def test_a_dense_branch_beside_the_weights_is_found():
    class Branch(nn.Linear):
        pass

    model, dense, claims = pair()
    model.model.layers[0].mlp.beside = Branch(32, 32)
    failures = pattern_check.check_patterns(model, claims, dense).failures
    assert any("beside is a" in failure for failure in failures)
    assert any("beside.weight [32, 32] isn't in the dense architecture" in failure for failure in failures)


def test_windows_are_spread_over_a_text():
    found = text_scores.cut(torch.arange(100), 10, 4)
    assert found[:, 0].tolist() == [0, 30, 60, 90]
    assert text_scores.cut(torch.arange(25), 10, 4)[:, 0].tolist() == [0, 15]
    with pytest.raises(ArgumentError, match="fewer than a window"):
        text_scores.cut(torch.arange(5), 10, 4)


def test_texts_of_three_kinds_come_with_python():
    found = usual_texts.usual_texts()
    assert {"docstrings", "programs"} <= set(found)
    assert all(len(text) > 100_000 for text in found.values())
    assert "Random number generators" not in found["programs"], "docstrings are left out"
    assert "def " not in found["docstrings"][:1000]


def test_an_audit_says_what_the_models_do():
    model, dense, claims = pair()
    ids = {"one": torch.randint(3, 96, (200,)), "two": torch.randint(3, 96, (64,))}
    report = sf.evaluation.audit(
        model, tokenizer(), dense, claims=claims, texts=ids, options=SMALL, progress=False
    )
    assert not report.patterns.failures
    one = report.texts.texts[0]
    windows = text_scores.cut(ids["one"], 16, 4)
    expected = sf.evaluation.perplexity(model, windows.flatten(), window=16, stride=16)
    assert one.perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert one.ratio == pytest.approx(one.perplexity / one.dense)
    assert one.ratio_interval[0] <= one.ratio <= one.ratio_interval[1]
    assert [place.first for place in report.texts.positions] == [1, 2, 4, 8]
    assert sum(place.tokens for place in report.texts.positions) == 8 * 15

    found = report.answers.prompts[3]
    begin = torch.tensor(tokenizer()(f"{found.prompt}\n")["input_ids"])[None]
    mine, theirs = (
        m.generate(begin, do_sample=False, max_new_tokens=8, pad_token_id=2)[0, begin.shape[1] :]
        for m in (model, dense)
    )
    assert found.answer == tokenizer().decode(mine, skip_special_tokens=True).strip()
    assert found.exact == torch.equal(mine, theirs)
    same = (mine == theirs).long().cumprod(0).sum() if len(mine) == len(theirs) else None
    assert same is None or found.same == same

    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["answers"]["summary"]["exact"]["of"] == 5
    page = audit_page("Audit", plain)
    for text in (html(page), markdown(page)):
        assert "Answers side by side" in text
        assert "lossless" not in text.lower()


def test_a_model_equals_itself():
    _, dense, _ = pair()
    ids = {"one": torch.randint(3, 96, (100,))}
    report = sf.evaluation.audit(
        dense, tokenizer(), copy.deepcopy(dense), texts=ids, options=SMALL, progress=False
    )
    assert report.texts.texts[0].ratio == 1
    assert report.texts.texts[0].agreement == 1
    assert report.answers.summary()["exact"]["share"] == 1


def test_without_a_dense_model_nothing_is_compared():
    model, _, claims = pair()
    ids = {"one": torch.randint(3, 96, (100,))}
    report = sf.evaluation.audit(model, tokenizer(), claims=claims, texts=ids, options=SMALL, progress=False)
    assert report.texts.texts[0].ratio is None
    assert not report.texts.positions
    assert set(report.answers.summary()) == {"repetition", "right"}
    assert "Answers side by side" in html(audit_page("Audit", report.to_dict()))
    with pytest.raises(ArgumentError, match="no language model"):
        sf.evaluation.audit(zoo.text_model("bert"), tokenizer())
