"""What the user changes in a model after compiling it: seen, refused, or said to need `refresh`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, InferenceOnlyError

WIDTH = 16


class Settings:
    def __init__(self) -> None:
        self.scale = 1.0


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.fc = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("shift", torch.zeros(WIDTH))
        self.flag, self.config, self.deeper = False, {"scale": 1.0}, {"shift": {"by": 1.0}}
        self.active: str | list[str] = ["q"]
        self.settings = Settings()

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.q(x) * self.k(x)) + self.shift * self.deeper["shift"]["by"]
        y = y + 3 if "q" in self.active else y
        return -y if self.flag else y * self.config["scale"] * self.settings.scale


def other_weights(model: Model) -> None:
    model.load_state_dict({name: torch.randn_like(t) for name, t in model.state_dict().items()})


def written(model: Model) -> None:
    with torch.no_grad():
        model.fc.weight.mul_(2)


def merged_written(model: Model) -> None:
    with torch.no_grad():
        model.k.bias.add_(1)


def rebound(model: Model) -> None:
    model.q.weight = nn.Parameter(torch.ones(WIDTH, WIDTH))


def data_rebound(model: Model) -> None:
    model.k.bias.data = model.k.bias.data * 3


def another_layer(model: Model) -> None:
    model.fc = nn.Linear(WIDTH, WIDTH).eval()


def another_buffer(model: Model) -> None:
    model.shift = torch.ones(WIDTH)


def buffer_written(model: Model) -> None:
    model.shift.add_(3)


def hooked(model: Model) -> None:
    model.fc.register_forward_hook(lambda module, args, out: out + 1)


def assigned(model: Model) -> None:
    state = {name: torch.randn_like(t) for name, t in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def flagged(model: Model) -> None:
    model.flag = not model.flag


def configured(model: Model) -> None:
    model.settings.scale += 1.0


def in_a_dict(model: Model) -> None:
    model.config["scale"] += 1.0


def in_a_list(model: Model) -> None:
    assert isinstance(model.active, list)
    model.active.append("k") if "q" not in model.active else model.active.remove("q")


def another_list(model: Model) -> None:
    model.active = ["k"] if "q" in model.active else "q"


SEEN = [
    *(flagged, configured, data_rebound),
    *(in_a_dict, in_a_list, another_list),
    other_weights,
    written,
    merged_written,
    rebound,
    another_layer,
    another_buffer,
    buffer_written,
    hooked,
    assigned,
]


@pytest.mark.parametrize("change", SEEN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", [{}, {"prune": "magnitude", "policy": "sparse"}], ids=["dense", "pruned"])
def test_weights_layers_and_hooks_are_seen(change: Callable[[Model], None], options: dict[str, str]) -> None:
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(3, WIDTH)
    compiled = sf.compile(model, **options)

    def expected() -> Tensor:
        eager = copy.deepcopy(model)
        if options:
            sf.prune(eager)
        return eager(x)

    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected())
        for _ in range(2):
            torch.manual_seed(1)
            change(model)
            torch.testing.assert_close(compiled(x), expected())
            torch.testing.assert_close(compiled(x[:2]), expected()[:2])


def test_a_hook_that_is_removed_is_gone() -> None:
    model, x = Model().eval(), torch.randn(3, WIDTH)
    handle = model.fc.register_forward_hook(lambda module, args, out: out + 1)
    compiled = sf.compile(model)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        handle.remove()
        torch.testing.assert_close(compiled(x), model(x))


def test_another_dtype_is_seen() -> None:
    model, x = Model().eval(), torch.randn(3, WIDTH)
    compiled = sf.compile(model)
    with torch.no_grad():
        compiled(x)
        model.bfloat16()
        torch.testing.assert_close(compiled(x.bfloat16()), model(x.bfloat16()))
        model.float()
        torch.testing.assert_close(compiled(x), model(x))


def test_what_is_deeper_in_a_dict_is_seen_after_refresh() -> None:
    model, x = Model().eval(), torch.randn(3, WIDTH)
    model.shift.fill_(1.0)
    compiled = sf.compile(model)
    with torch.no_grad():
        compiled(x)
        model.deeper["shift"]["by"] = 3.0
        compiled.refresh()
        torch.testing.assert_close(compiled(x), model(x))


def test_changes_of_a_model_that_was_compiled_in_place_are_refused() -> None:
    model, x = Model().eval(), torch.randn(3, WIDTH)
    compiled = sf.compile(model, (x,), inplace=True, prune="magnitude", policy="sparse")
    compiled(x)
    rebound(model)
    with pytest.raises(ArgumentError, match=r"q\.weight was changed"):
        compiled(x)
    with pytest.raises(ArgumentError, match="compiled in place"):
        compiled.refresh()


def test_training_mode_is_refused_and_evaluation_mode_goes_on() -> None:
    model, x = Model().eval(), torch.randn(3, WIDTH)
    compiled = sf.compile(model, (x,))
    model.train()
    with pytest.raises(InferenceOnlyError):
        compiled(x)
    model.eval()
    compiled(x)
    assert compiled.report.model["programs"] == 1


class OfTorch(nn.Module):
    """Torch's own modules, whose settings the user may change too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.act = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()
        self.soft, self.drop = nn.Softmax(-1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.soft(self.act(self.norm(self.fc(self.drop(x)))))


@pytest.mark.parametrize(
    ("module", "name", "value"), [("norm", "eps", 3.0), ("act", "approximate", "tanh"), ("soft", "dim", 0)]
)
def test_settings_of_torchs_modules_are_seen(module: str, name: str, value: object) -> None:
    torch.manual_seed(0)
    model, x = OfTorch().eval(), torch.randn(3, WIDTH)
    compiled = sf.compile(model, (x,), inner="eager")
    setattr(model.get_submodule(module), name, value)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    assert compiled.report.model["captures"] == ["first call"], "it was captured anew"


def test_a_part_in_training_mode_is_refused_after_a_capture_too() -> None:
    model, x = OfTorch().eval(), torch.randn(3, WIDTH)
    compiled = sf.compile(model, (x,), inner="eager")
    model.drop.train()
    with pytest.raises(InferenceOnlyError, match=r"OfTorch\.drop"):
        compiled(x)
    model.eval()
    torch.testing.assert_close(compiled(x), model(x))


def test_what_did_not_change_captures_nothing_anew() -> None:
    model, x = Model().eval(), torch.randn(3, WIDTH)
    compiled = sf.compile(model)
    for _ in range(3):
        compiled(x)
        nn.Linear(2, 2).register_forward_hook(lambda *_: None)  # on another model
    assert compiled.report.model["captures"] == ["first call"]
