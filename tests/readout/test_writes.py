"""What members write: against a computation by hand from a family's own weights, and against the model's logits."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cotrace.components import Component, Site
from cotrace.models import LanguageModel, hooked, wrap
from cotrace.problem import LanguageProblem
from cotrace.readout.logit_parts import Writer, differing, writer_of
from cotrace.readout.output_maps import leading, output_rows, ov_maps
from cotrace.readout.writes import Writes
from tests import tiny
from tests.families import tiny_model
from tests.handmade import PLANTED
from tests.readout.test_paths import hooks, keeping, where

TASK = tiny.task(answer_tokens=(1, 1))


@cache
def model(family: str) -> LanguageModel:
    if family in tiny.FAMILIES:
        return tiny.model(family)
    module = tiny_model(family)
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    experts = hasattr(module.config, "num_local_experts") or hasattr(module.config, "num_experts")
    module = module if experts and family != "gpt_oss" else module.double()  # experts are multiplied in float32 only
    return wrap(module, tiny.tokenizer(), name=family)


def written(family: str, task: Any, *names: str, **options: Any) -> Writes:
    sites = ["head_output", "mlp_neuron"]
    problem = LanguageProblem(model(family), task, sites=sites, holdout=0, **options)
    return Writes(problem.training.scorer, list(map(Component.parse, names)), Writer(problem.model)).run()


class Run:
    """One prompt through a model, and what its weights make of it, written down for each family."""

    def __init__(self, family: str, prompt: str) -> None:
        self.family, self.model = family, model(family)
        ids = torch.tensor([self.model.require_tokenizer()(prompt)["input_ids"]])
        self.seen: dict[nn.Module, list[Tensor]] = {m: [] for m in (*self.projections, *self.downs, self.norm)}
        with hooks(*((module, keeping(into)) for module, into in self.seen.items())), torch.no_grad():
            self.logits = self.model.module(input_ids=ids).logits[0, -1].double()

    @property
    def blocks(self) -> Any:
        module: Any = self.model.module
        return module.transformer.h if self.family == "gpt2" else module.model.layers

    @property
    def projections(self) -> list[nn.Module]:
        return [b.attn.c_proj if self.family == "gpt2" else b.self_attn.o_proj for b in self.blocks]

    @property
    def downs(self) -> list[nn.Module]:
        return [b.mlp.c_proj if self.family == "gpt2" else b.mlp.down_proj for b in self.blocks]

    @property
    def norm(self) -> Any:
        module: Any = self.model.module
        return module.transformer.ln_f if self.family == "gpt2" else module.model.norm

    def given(self, module: nn.Module) -> Tensor:
        return self.seen[module][0][0, -1]

    def matrix(self, module: Any) -> Tensor:
        """[in, out]"""
        weight: Tensor = module.weight
        return weight if self.family == "gpt2" else weight.T

    def normed(self, norm: Any, at: Tensor, values: Tensor) -> Tensor:
        """LayerNorm, or RMSNorm with weight w (Llama) or 1 + w (Gemma), at the scale that it has at ``at``."""
        if self.family == "gpt2":
            spread = (at.var(-1, unbiased=False) + norm.eps).sqrt()
            return norm.weight * (values - values.mean(-1, keepdim=True)) / spread
        size = (at.square().mean(-1) + self.model.module.config.rms_norm_eps).sqrt()
        return (1 + norm.weight if self.family == "gemma2" else norm.weight) * values / size

    def post(self, layer: int, name: str, whole: Tensor, values: Tensor) -> Tensor:
        """Gemma's norm behind attention and MLP; nothing in the others."""
        return self.normed(getattr(self.blocks[layer], name), whole, values) if self.family == "gemma2" else values

    def to_logits(self, values: Tensor) -> Tensor:
        """What a vector in the stream does to the logits, at the final norm's own scale."""
        head: Tensor = self.model.module.lm_head.weight
        return self.normed(self.norm, self.given(self.norm), values) @ head.T

    def head(self, layer: int, unit: int, x: Tensor | None = None) -> Tensor:
        matrix, own = self.projections[layer], self.model.layers[layer].d_head
        x = self.given(matrix) if x is None else x
        part = slice(unit * own, (unit + 1) * own)
        whole = self.given(matrix) @ self.matrix(matrix)
        if self.family == "gpt2":
            whole = whole + matrix.bias
        return self.post(layer, "post_attention_layernorm", whole, x[part] @ self.matrix(matrix)[part])

    def neuron(self, layer: int, unit: int) -> Tensor:
        matrix = self.downs[layer]
        whole = self.given(matrix) @ self.matrix(matrix)
        row = self.given(matrix)[unit] * self.matrix(matrix)[unit]
        return self.post(layer, "post_feedforward_layernorm", whole, row)


def tokens(family: str, pair: Any) -> tuple[int, int]:
    words = model(family).require_tokenizer()
    right, wrong = (words(pair.answers[i])["input_ids"][0] for i in (pair.target, 1 - pair.target))
    return right, wrong


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@torch.no_grad()
def test_contributions_are_those_of_the_weights_and_add_up(family: str) -> None:
    """Within 1e-5 of a computation by hand; the sum within 1e-4 of the logit difference (before Gemma's cap)."""
    found = written(family, TASK, "L1.head2", "L0.neuron5")
    table = found.contributions
    assert table is not None
    assert table.names[0] == "embeddings"
    cap = getattr(model(family).module.config, "final_logit_softcapping", None)
    assert table.capped == (cap is not None)
    for e, pair in enumerate(TASK.pairs):
        run, (right, wrong) = Run(family, pair.base), tokens(family, pair)

        def difference(logits: Tensor, right: int = right, wrong: int = wrong) -> float:
            return float(logits[right] - logits[wrong])

        raw = run.logits if cap is None else cap * torch.atanh(run.logits / cap)
        assert table.logit_difference[e] == pytest.approx(difference(raw), abs=1e-5)
        assert table.table[:, e].sum() == pytest.approx(difference(raw), abs=1e-4)
        for layer, unit in ((0, 0), (1, 2)):
            row = table.names.index(f"L{layer}.head{unit}")
            expected = difference(run.to_logits(run.head(layer, unit)))
            assert abs(expected) > 1e-3
            assert table.table[row, e] == pytest.approx(expected, abs=1e-5)
    values = [difference(run.to_logits(run.neuron(0, 5))) for run, difference in _each(family)]
    assert found.member(1, torch.ones(len(TASK.pairs))).base == pytest.approx(sum(values) / len(values), abs=1e-5)


def _each(family: str) -> Any:
    for pair in TASK.pairs:
        right, wrong = tokens(family, pair)
        yield Run(family, pair.base), lambda logits, r=right, w=wrong: float(logits[r] - logits[w])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@torch.no_grad()
def test_a_donors_part_and_the_promoted_tokens(family: str) -> None:
    """The value of the donor run through the base run's scales; tokens by the mean of what is written."""
    told = written(family, TASK, "L1.head2").member(0, torch.ones(len(TASK.pairs)))
    parts, logits = [], torch.zeros(60, dtype=torch.float64)
    for (run, difference), pair in zip(_each(family), TASK.pairs, strict=True):
        donor = Run(family, pair.counterfactual or "")
        other = run.head(1, 2, donor.given(donor.projections[1]))
        parts.append(difference(run.to_logits(other)))
        logits += run.to_logits(run.head(1, 2))[:60] / len(TASK.pairs)
    assert told.donor == pytest.approx(sum(parts) / len(parts), abs=1e-5)
    assert told.difference == pytest.approx((told.donor or 0) - (told.base or 0))
    order = logits.argsort(descending=True)
    known = [name for name, _ in told.promoted if name.startswith("w")]
    assert known[0] == f"w{int(order[0])}"
    known = [name for name, _ in told.suppressed if name.startswith("w")]
    assert known[0] == f"w{int(order[-1])}"


@torch.no_grad()
def test_the_direct_effect_leaves_every_later_layer_as_it_was() -> None:
    """By hand: what the head's swap adds in its own layer, put in front of the final norm of the base run."""
    found = written("gpt2", TASK, "L0.head1").direct[0]
    module: Any = model("gpt2").module
    (matrix, at), norm = where(model("gpt2"), Component.parse("L0.head1")), module.transformer.ln_f
    for e, (pair, (run, _)) in enumerate(zip(TASK.pairs, _each("gpt2"), strict=True)):
        donor = Run("gpt2", pair.counterfactual or "")
        change = (donor.given(matrix) - run.given(matrix))[at] @ matrix.weight[at]
        log_p = module.lm_head(norm(run.given(norm) + change)).log_softmax(-1)
        words = model("gpt2").require_tokenizer()
        expected = [float(log_p[words(answer)["input_ids"][0]]) for answer in pair.answers]
        assert found[e].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("family", ["qwen3", "granite", "cohere", "olmo2", "bloom", "gpt_neox", "opt", "gpt_oss"])
def test_parts_add_up_in_other_families(family: str) -> None:
    """Norms behind attention, multipliers, scaled logits, parallel layers, experts: the sum is the logit difference."""
    some = model(family) if family != "gpt_oss" else wrap(tiny_model(family), tiny.tokenizer(), name=family)
    problem = LanguageProblem(some, TASK, sites=["head_output"], holdout=0)
    found = Writes(problem.training.scorer, [problem.space[1]], Writer(some)).run()
    table, scores = found.contributions, problem.training.scorer.base
    assert table is not None, found.nonlinear
    assert not table.capped
    target = torch.tensor([pair.target for pair in TASK.pairs])[:, None]
    difference = (scores.gather(1, target) - scores.gather(1, 1 - target))[:, 0]
    assert table.table.sum(0) == pytest.approx(difference.double().numpy(), abs=1e-4)
    assert table.logit_difference == pytest.approx(difference.double().numpy(), abs=1e-4)
    assert sum(".head" in name for name in table.names) == sum(layer.heads for layer in some.layers)


def test_answers_of_several_tokens_are_told_apart_where_they_first_differ() -> None:
    assert differing([(5, 6), (5, 7, 8)], 0) == (1, [7])
    assert differing([(5,), (4,), (3,)], 1) == (0, [5, 3])
    assert differing([(5, 6)], 0) == (0, [])
    assert differing([(5,), (5, 6)], 0) is None


def test_packing_changes_nothing() -> None:
    names = ("L0.head1", "L1.neuron2")
    task = tiny.task(answer_tokens=(2, 3))
    whole, plain, small = (
        written("llama", task, *names, **more) for more in ({}, {"packing": "plain"}, {"batch_tokens": 7})
    )
    assert whole.contributions is not None
    for other in (plain, small):
        assert other.contributions is not None
        assert other.contributions.table == pytest.approx(whole.contributions.table, abs=1e-6)
        torch.testing.assert_close(other.direct, whole.direct, atol=1e-6, rtol=0)
        for i in range(2):
            one, two = (w.member(i, torch.ones(6)) for w in (whole, other))
            assert (one.base, one.donor) == pytest.approx((two.base, two.donor), abs=1e-6)


def test_in_the_induction_pair_only_the_second_head_writes_the_answer() -> None:
    one = PLANTED["induction"]()
    problem = LanguageProblem(one.model, one.task, sites=["head_output"], holdout=0)
    found = Writes(problem.training.scorer, problem.space[:], Writer(one.model)).run()
    assert found.contributions is not None
    rows = dict(zip(found.contributions.names, found.contributions.table.mean(1), strict=True))
    whole = found.contributions.logit_difference.mean()
    assert rows["L1.head1"] == pytest.approx(whole, rel=0.02)
    assert abs(rows["L0.head2"]) < 1e-9
    base = problem.training.scorer.base
    direct = (found.direct - base).abs().amax((1, 2))
    assert direct[2] < 1e-9
    assert direct[5] > 1


@pytest.mark.parametrize(
    ("family", "site"),
    [
        ("mixtral", "expert"),
        ("flex_olmo", "expert"),
        *(("llama", site) for site in ("kv_group", "mlp_coordinate", "mlp_neuron", "attention_output")),
    ],
)
def test_the_units_of_a_layer_write_what_the_layer_writes(family: str, site: str) -> None:
    """Experts (those of FlexOlmo behind one norm of all of them), groups, coordinates and neurons (without a bias) add
    up to the whole's part."""
    some = model(family)
    problem = LanguageProblem(some, TASK, sites=[site], holdout=0)
    members = [one for one in problem.space if one.layer == 0]
    found = Writes(problem.training.scorer, members, Writer(some)).run()
    assert not found.unseen
    assert found.contributions is not None
    rows = dict(zip(found.contributions.names, found.contributions.table.mean(1), strict=True))
    attention = sum(value for name, value in rows.items() if name.startswith(("L0.head", "L0.attn")))
    whole = attention if site in ("kv_group", "attention_output") else rows["L0.mlp"]
    parts = [found.member(i, torch.ones(len(TASK.pairs))).base for i in range(len(members))]
    assert abs(whole) > 1e-4
    assert sum(part or 0 for part in parts) == pytest.approx(whole, abs=1e-5)


def test_an_expert_that_its_layer_scales_is_not_seen() -> None:
    """What the layer makes of its experts' sum is another than their sum: said, not guessed."""
    some = wrap(tiny_model("mixtral"), tiny.tokenizer(), name="mixtral")
    problem = LanguageProblem(some, TASK, sites=["expert"], holdout=0)
    names = ["L0.expert0", "L1.expert0"]
    handle = problem.model.places(Site.MLP_OUTPUT)[0].module.register_forward_hook(
        lambda module, args, output: 2 * output
    )
    try:
        found = Writes(problem.training.scorer, list(map(Component.parse, names)), Writer(some)).run()
    finally:
        handle.remove()
    assert list(found.unseen) == names[:1]
    assert "its layer does more than add it" in found.unseen[names[0]]
    weight = torch.ones(len(TASK.pairs))
    assert (found.member(0, weight).base, found.member(1, weight).base is None) == (None, False)


@torch.no_grad()
def test_output_rows_and_ov_maps_are_the_weights_own() -> None:
    """Llama: a neuron's row of the down projection, and the value of one token through one head, read by the head of
    the model."""
    some = model("llama")
    module: Any = some.module
    problem = LanguageProblem(some, TASK, sites=["head_output", "mlp_neuron", "mlp_coordinate"], holdout=0)
    words, read = some.require_tokenizer(), module.lm_head.weight.double() * module.model.norm.weight
    neuron, coordinate, head = (Component.parse(name) for name in ("L1.neuron5", "L0.coord3", "L0.head1"))
    rows = output_rows(Writer(some), [neuron, coordinate, head])
    expected = {
        "L1.neuron5": read @ module.model.layers[1].mlp.down_proj.weight[:, 5].double(),
        "L0.coord3": read[:, 3],
    }
    assert set(rows) == set(expected)
    for name, logits in expected.items():
        (row,) = rows[name].moved
        order = logits.argsort(descending=True).tolist()
        assert row.raises == tuple(words.convert_ids_to_tokens(order[:4]))
        assert row.lowers == tuple(words.convert_ids_to_tokens(order[::-1][:4]))
    pair = problem.training.scorer.pairs[0]
    first, layer, size = pair.prompt[0], module.model.layers[0], some.layers[0].d_head
    looked = {str(head): [words.convert_ids_to_tokens(first)]}
    (moved,) = ov_maps(problem.training.scorer, Writer(some), [head], [pair], looked)[str(head)].moved
    value = layer.self_attn.v_proj(layer.input_layernorm(module.model.embed_tokens.weight[first]))[:size]
    order = (read @ layer.self_attn.o_proj.weight[:, size : 2 * size] @ value).argsort(descending=True).tolist()
    assert moved.raises == tuple(words.convert_ids_to_tokens(order[:4]))
    assert moved.lowers == tuple(words.convert_ids_to_tokens(order[::-1][:4]))


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "flex_olmo"])
@torch.no_grad()
def test_an_experts_row_is_the_leading_direction_of_its_output_matrix(family: str) -> None:
    """By a singular value decomposition of the family's own weights, on the side of what the expert writes here."""
    some = model(family) if family != "gpt_oss" else wrap(tiny_model(family), tiny.tokenizer(), name=family)
    module: Any = some.module
    member = Component.parse("L0.expert1")
    problem = LanguageProblem(some, TASK, sites=["expert"], holdout=0)
    found = Writes(problem.training.scorer, [member], Writer(some)).run()
    layer = module.model.layers[0]
    weight = layer.mlp.experts.down_proj[1].double()
    rows = weight if family == "gpt_oss" else weight.T  # [d_ff, d_model]; of GPT-OSS as it is stored
    _, sizes, vectors = torch.linalg.svd(rows)
    seen: list[Tensor] = []
    where = problem.model.places(Site.EXPERT)[0]
    for pair in TASK.pairs:
        ids = some.require_tokenizer()(pair.base)["input_ids"]
        with hooked(module, [(where, lambda own: seen.append(own.reshape(-1, where.units, where.width)[:, 1]) or own)]):
            module(input_ids=torch.tensor([ids]), use_cache=False)
    mean = torch.cat(seen).double().sum(0)
    direction = vectors[0] * (1 if float(vectors[0] @ mean) > 0 else -1)
    assert abs(float(vectors[0] @ mean)) > 1e-3 * float(mean.norm())
    ov = output_rows(Writer(some), [member], found.mean)[str(member)]
    assert ov.share == pytest.approx(float(sizes[0].square() / sizes.square().sum()), rel=1e-5)
    made = direction * module.model.norm.weight.double()
    if family == "flex_olmo":  # a norm behind all experts, at its own scale
        made = made * layer.post_feedforward_layernorm.weight.double()
    order = (module.lm_head.weight.double() @ made).argsort(descending=True).tolist()
    words = some.require_tokenizer()
    names = [words.convert_ids_to_tokens(i) if i < len(words) else f"[{i}]" for i in order]
    (row,) = ov.moved
    assert row.raises == tuple(names[:4])
    assert row.lowers == tuple(names[::-1][:4])
    assert not output_rows(Writer(some), [member], {str(member): torch.zeros(where.width, dtype=torch.float64)})


def test_the_leading_direction_of_a_wide_and_of_a_tall_matrix() -> None:
    for shape in ((5, 9), (9, 5)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        direction, share = leading(matrix)
        _, sizes, vectors = torch.linalg.svd(matrix)
        assert abs(float(direction @ vectors[0])) == pytest.approx(1)
        assert share == pytest.approx(float(sizes[0] ** 2 / (matrix**2).sum()))


class Int8Head(nn.Module):
    """An output head stored in 8 bits with a scale for each token; ``rounds`` what it reads too, as LLM.int8 does."""

    def __init__(self, weight: Tensor, *, rounds: bool) -> None:
        super().__init__()
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.rounds = rounds

    @property
    def plain(self) -> Tensor:
        return self.weight.to(self.scale) * self.scale

    def forward(self, values: Tensor) -> Tensor:
        if self.rounds:
            step = values.abs().amax(-1, keepdim=True) / 127
            values = (values / step).round() * step
        return values @ self.plain.T


@pytest.mark.parametrize("rounds", [False, True])
def test_an_output_head_in_fewer_bits_is_asked_what_it_does(rounds: bool) -> None:
    """The same as of a model whose head has those very numbers in full; refused where it is not linear."""
    told = []
    for stored in (True, False):
        module: Any = tiny_model("gpt_neox").double()
        head = Int8Head(module.get_output_embeddings().weight.detach(), rounds=rounds)
        plain = nn.Linear(*reversed(head.plain.shape), bias=False, dtype=torch.float64)
        plain.weight.data = head.plain.clone()
        module.set_output_embeddings(head if stored else plain)
        some = wrap(module, tiny.tokenizer(), name="quantised")
        if stored and rounds:
            assert "Int8Head) is stored in fewer bits and rounds what it reads" in str(writer_of(some))
            return
        problem = LanguageProblem(some, TASK, sites=["head_output"], holdout=0)
        told.append(Writes(problem.training.scorer, [problem.space[5]], Writer(some)).run())
    own, expected = (one.contributions for one in told)
    assert own is not None
    assert expected is not None
    assert own.table == pytest.approx(expected.table, abs=1e-9)
    assert told[0].member(0, torch.ones(len(TASK.pairs))) == told[1].member(0, torch.ones(len(TASK.pairs)))


def test_a_stream_that_is_swapped_writes_itself() -> None:
    """The stream behind the last layer is everything but the final bias, and its direct effect is its effect."""
    problem = LanguageProblem(model("llama"), TASK, sites=["residual"], holdout=0)
    last = problem.space[len(problem.space) - 1]
    found = Writes(problem.training.scorer, [last], Writer(problem.model)).run()
    assert found.contributions is not None
    told = found.member(0, torch.ones(len(TASK.pairs)))
    assert told.base == pytest.approx(found.contributions.logit_difference.mean(), abs=1e-5)
    scores = problem.scores([str(last)])
    torch.testing.assert_close(found.direct[0], scores, atol=1e-6, rtol=0)
