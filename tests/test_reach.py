import re
from pathlib import Path
from typing import Any

import pytest

from langsearch.space.architecture import BaseShape
from langsearch.space.problems import InputError
from langsearch.space.reach import parameter_bounds
from langsearch.space.schema import Space, load_space

SHAPE = BaseShape(
    encoder_layers=4, decoder_layers=4, d_model=16, encoder_ffn_dim=64, decoder_ffn_dim=64, num_parameters=10_000
)
SPACE = """\
base: tiny-m2m
languages: {high: [en, fr], low: [sw, wo]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
architecture:
"""


def load(folder: Path, architecture: str) -> Space:
    path = folder / "small.yaml"
    path.write_text(SPACE + "".join(f"  {line}\n" for line in architecture.splitlines()), encoding="utf-8")
    return load_space(path)


@pytest.mark.parametrize(
    ("architecture", "line", "message"),
    [
        (
            "rank: 4\nencoder:\n  layers: {first: 2}\n  overrides:\n    - {layers: {last: 1}, rank: 8}",
            12,
            r"encoder.overrides\[0\]` touches nothing: the encoder adapts none of its layers",
        ),
        (
            "rank: 4\ndecoder: {modules: [q_proj], overrides: [{modules: [fc1, fc2], rank: 8}]}",
            9,
            r"decoder.overrides\[0\]` touches nothing: the decoder adapts none of its modules. Add them to "
            "`decoder.modules`",
        ),
        (
            "rank: 4\nencoder: {overrides: [{layers: [0, 1], rank: 8}, {layers: {first: 3}, rank: 2}]}",
            9,
            r"encoder.overrides\[0\]` touches nothing: later overrides win wherever it speaks",
        ),
        (
            "rank: 4\nencoder: {overrides: [{layers: [0], side: tgt, rank: 8}, {layers: {first: 3}, side: src}]}",
            9,
            r"encoder.overrides\[0\].side` touches nothing: later overrides win",
        ),
        (
            "rank: 4\nencoder: {overrides: [{rank: {low: 8}}, {rank: {languages: {sw: 2, wo: 3}}}]}",
            9,
            r"encoder.overrides\[0\]` touches nothing: later overrides win",
        ),
        (
            "rank: 4\nencoder: {overrides: [{rank: {high: 6, low: 8}}, {rank: {low: 2}}]}",
            9,
            r"encoder.overrides\[0\].rank.low` touches nothing: rules that win over it .* Leave it out",
        ),
        (
            "rank: 4\nencoder: {modules: [q_proj, fc1], overrides: [{modules: [fc1, out_proj], rank: 8}]}",
            9,
            r"overrides\[0\].modules` must name modules that the encoder adapts, but got out_proj",
        ),
        (
            "rank: 4\nencoder: {layers: [0, 2], overrides: [{layers: [1, 2], rank: 8}]}",
            9,
            r"overrides\[0\].layers` must name layers that the encoder adapts, but got 1",
        ),
        (
            "rank: 4\nencoder: {layers: [0, 2], source_layers: [1, 2]}",
            9,
            r"encoder.source_layers` must list layers that the encoder adapts, but got \[1\]",
        ),
        (
            "rank:\n  high: 2\n  low: {src: 4, tgt: 8}\ndecoder: {modules: []}",
            10,
            r"rank.low.tgt` touches nothing: no adapted layer is indexed by target. Write 0",
        ),
        (
            "rank: 4\nencoder: {overrides: [{rank: {low: {tgt: 8}}}]}",
            9,
            r"overrides\[0\].rank.low.tgt` touches nothing: no adapted layer is indexed by target. Leave it out",
        ),
        (
            "rank: {high: 4, low: 2}\nencoder: {rank: {low: 1}}\ndecoder: {rank: {low: 3}}",
            8,
            r"rank.low` touches nothing: rules that win over it speak for all of its places. Write 0",
        ),
        (
            "rank: 4\nencoder: {sides: [src, src, tgt]}",
            9,
            "encoder.sides` must have one side for each .* 4 .* 3",
        ),
        ("rank: 4\nencoder: {source_layers: [0, 4]}", 9, r"source_layers` must lie within .* 0 to 3, but got \[4\]"),
        (
            "rank: 4\nencoder: {overrides: [{layers: [3, 4], rank: 2}]}",
            9,
            r"overrides\[0\].layers` must lie within the base's 4 layers, 0 to 3, but got \[4\]",
        ),
        (
            "rank: 4\nencoder: {overrides: [{layers: [7], rank: 2}]}",
            9,
            r"overrides\[0\].layers` must lie within the base's 4 layers, 0 to 3, but got \[7\]",
        ),
        (
            "rank: 4\nencoder: {overrides: [{layers: {first: {int: [1, 5]}}, rank: 2}]}",
            9,
            r"overrides\[0\].layers.first` must lie within the base's 4 layers, but got 5",
        ),
        (
            "rank: 4\nffn_slice: 8\nencoder: {overrides: [{modules: [fc1], rank: {high: 9}}]}",
            10,
            r"overrides\[0\].rank.high` must be at most the narrowest adapted layer's width, 8, but got 9",
        ),
    ],
)
def test_a_rule_that_touches_nothing_or_does_not_fit_is_a_problem(
    architecture: str, line: int, message: str, tmp_path: Path
) -> None:
    (problem,) = load(tmp_path, architecture).check(SHAPE)
    assert re.search(message, problem), problem
    assert f"small.yaml:{line}: `architecture." in problem


@pytest.mark.parametrize(
    "architecture",
    [
        "rank: {high: 4, low: 0}\nencoder: {rank: {low: 1}}\ndecoder: {rank: {low: 3}}",
        "rank: {high: 4, low: 0, languages: {sw: 2, wo: 8}}",
        "rank:\n  high: 2\n  low: {src: 4, tgt: 0}\ndecoder: {modules: []}",
        "rank: 4\nencoder: {layers: {first: {int: [1, 4]}}, overrides: [{layers: {last: 1}, rank: 8}]}",
        "rank: 4\nencoder: {modules: {subset: [q_proj, fc1]}, overrides: [{modules: [fc1], rank: 8}]}",
        "rank: 4\nencoder: {overrides: [{layers: {last: {int: [0, 2]}}, rank: {low: {tgt: 8}}, side: tgt}]}",
        "rank: 4\nencoder: {overrides: [{rank: 8}, {modules: {subset: [q_proj, k_proj, v_proj, fc1, fc2]}, rank: 2}]}",
        # A wide rank where the layers are wide, though others are narrow.
        "rank: 4\nffn_slice: 8\nencoder: {overrides: [{modules: [q_proj], rank: 16}]}",
        "rank: 4\nencoder: {sides: {choice: [src, tgt]}}",
    ],
)
def test_a_rule_that_touches_something_at_some_point_is_right(architecture: str, tmp_path: Path) -> None:
    assert load(tmp_path, architecture).check(SHAPE) == []


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            "rank: 4\nencoder: {overrides: [{layers: [0]}]}",
            r"overrides\[0\]` must say `rank` or `side`, .* neither",
        ),
        ("rank: 4\nencoder: {overrides: [{rank: {}}]}", r"overrides\[0\].rank` must give a rank, .* but is empty"),
        ("rank: 4\nencoder: {overrides: [{rank: {lo: 2}}]}", r"overrides\[0\].rank.lo` must name a class.* mean low"),
        ("rank: 4\nencoder: {overrides: [{rank: {languages: {sv: 2}}}]}", r"languages.sv` must name one of the lang"),
        (
            "rank: 4\nencoder: {overrides: [{rank: 2, modul: [fc1]}]}",
            r"overrides\[0\].modul` must be a key .*modules",
        ),
        ("rank: 4\nencoder: {overrides: [{rank: 2, modules: [fc3]}]}", r"overrides\[0\].modules` must name modules of"),
        (
            "rank: 4\nencoder: {overrides: [{side: both}]}",
            r"overrides\[0\].side` must be one of src, tgt, .*'both'",
        ),
        ("rank: 4\nencoder: {overrides: {rank: 2}}", r"encoder.overrides` must be a list, but got"),
        ("rank: 4\nencoder: {overrides: [{rank: {low: {src: -1}}}]}", r"overrides\[0\].rank.low.src` must be a whole"),
        ("rank: {high: 4, low: {src: 2}}", r"rank.low.tgt` must be given beside the other side, but is missing"),
        ("rank: {high: 4, low: {src: 2, tgt: 4, all: 1}}", r"rank.low.all` must be a key of `architecture.rank.low`"),
        ("rank: 4\nencoder: {sides: [src, up]}", r"encoder.sides` must be one of src, tgt, but got 'up'"),
        ("rank: 4\nencoder: {sides: []}", r"encoder.sides` must be src, tgt, or a list"),
        ("rank: 4\nencoder: {sides: src, source_layers: 2}", r"encoder.sides` must stand alone"),
        ("rank: 4\nencoder: {source_layers: [1, 1]}", r"encoder.source_layers` must list each layer once"),
        ("rank: 4\nsharing: all\nencoder: {sides: {choice: [src, tgt]}}", r"encoder.sides` touches nothing"),
        ("rank: 4\nsharing: all\nencoder: {overrides: [{side: tgt}]}", r"overrides\[0\].side` touches nothing"),
        ("rank: {src: 2, tgt: 4}\nsharing: all", "rank` must be one value for both sides where sharing can be all"),
        (
            "rank: 4\nsharing: class\nencoder: {overrides: [{rank: {languages: {wo: 2}}}]}",
            r"overrides\[0\].rank.languages` needs sharing language",
        ),
        (
            "rank: {high: 4, low: 4, languages: {sw: 2}}\nsharing: {choice: [language, family]}",
            "rank` must be one value for languages that share an adapter, but sw and wo are both Atlantic-Congo",
        ),
        (
            "rank: 4\nencoder: {modules: [], overrides: [{rank: 2}]}",
            "encoder.overrides` touches nothing: the enc",
        ),
        ("rank: 0\nencoder: {overrides: [{rank: {choice: [0]}}]}", "rank` must be above 0 somewhere"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_key(architecture: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, architecture)
    assert len(caught.value.problems) == 1
    assert re.search(r"small.yaml:\d+: `architecture", caught.value.problems[0])


def test_a_class_cannot_be_named_as_a_side_is(tmp_path: Path) -> None:
    text = SPACE.replace("low:", "tgt:") + "  rank: 4\n"
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"`languages\.tgt` is no name for a class"):
        load_space(path)


def test_a_family_shares_where_its_ranks_are_equal_and_is_known(tmp_path: Path) -> None:
    space = load(tmp_path, "rank: {high: {choice: [2, 4]}, low: 8}\nsharing: {choice: [class, family]}")
    for sharing in ("class", "family"):
        architecture = space.architecture({"rank.high": 2, "sharing": sharing}, SHAPE)
        assert set(dict(architecture.slots).values()) == {"en+fr", "sw+wo"}
    path = tmp_path / "small.yaml"
    path.write_text(SPACE.replace("wo]", "xx]") + "  rank: 4\n  sharing: family\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"`architecture\.sharing` needs the family of every language.*'xx'"):
        load_space(path)


def test_the_bounds_hold_every_point(tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load(
        tmp_path,
        "rank: {high: {choice: [0, 2]}, low: {src: 1, tgt: {choice: [2, 4]}}}\n"
        "encoder: {source_layers: {int: [0, 4]}, overrides: [{modules: {subset: [fc1, fc2]}, rank: {low: 0}}]}\n"
        "decoder: {layers: {window: [0, 4]}, overrides: [{layers: [1], rank: {high: 3}}]}",
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    dimensions = space.dimensions()
    low, high = parameter_bounds(space.architecture_section, space.classes, "language", None, SHAPE)

    def count() -> int:
        point: dict[str, Any] = study.ask(fixed_distributions=dimensions).params
        return space.architecture(point, SHAPE).num_parameters(SHAPE)

    counts = [count() for _ in range(100)]
    assert low <= min(counts) < max(counts) <= high
