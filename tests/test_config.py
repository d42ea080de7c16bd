"""Parameters: how a run's block is put together, and that every mistake is told before any work."""

import dataclasses
import textwrap
from pathlib import Path

import pytest

from kdlib import blocks, config
from kdlib.config import ConfigError, load_run

ROOT = Path(__file__).parents[1]

PARAMS = """
scale: sample
seeds: [0, 1]
runs:
  p-frames:
    shared: true
    data: &home
      layout: bdd100k
      root: data/bdd100k
      size: [72, 128]
      labelled: {split: train, take: [0, 8], draw: 4}
      report: {split: val}
    frames: {rate: 2.0}
  p-teacher:
    title: Teacher
    data: *home
    model: {architecture: pspnet, blocks: [2, 2], width: 16}
    method: {name: supervised}
    schedule: {steps: 100, batch: 8, lr: 1.0e-3, warmup: 10}
  p-student:
    extends: p-teacher
    teacher: p-teacher
    model: {width: 8}
    method: {name: matching, mixup: true}
    data: {frames: p-frames}
  p-student-long:
    extends: p-student
    schedule: {steps: 400}
scales:
  sample: {}
  smoke:
    common:
      schedule: {steps: 6, batch: 2}
    runs:
      p-teacher:
        data: {root: elsewhere}
        schedule: {warmup: 1}
      p-student-long: {schedule: {steps: 7}}
"""


@pytest.fixture
def params(tmp_path, monkeypatch):
    """Writes a params.yaml, after replacements, into a repository and goes there."""
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)

    def write(*replacements: tuple[str, str]) -> Path:
        text = PARAMS
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / "params.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
        return tmp_path

    write()
    return write


def refusal(name: str = "p-teacher", **options) -> str:
    with pytest.raises(ConfigError) as error:
        load_run(name, **options)
    return str(error.value)


def test_a_block_becomes_typed(params):
    run = load_run("p-teacher")
    assert (run.name, run.scale, run.seed, run.title) == ("p-teacher", "sample", 0, "Teacher")
    assert run.data.size == (72, 128) and isinstance(run.data.size, tuple)
    assert run.data.labelled == config.Subset("train", take=(0, 8), draw=4)
    assert run.schedule == config.Schedule(steps=100, batch=8, lr=1e-3, warmup=10)
    assert run.augment == config.Augment() and run.teacher is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.seed = 1


def test_extends_merges_key_by_key(params):
    run = load_run("p-student-long")
    assert run.schedule == config.Schedule(steps=400, batch=8, lr=1e-3, warmup=10)
    assert run.model == config.Model("pspnet", blocks=(2, 2), width=8)
    assert run.method == config.Method("matching", mixup=True)
    assert run.data.frames == "p-frames" and run.data.root == "data/bdd100k"
    assert load_run("p-teacher").data.frames is None  # the ancestor is as it was
    chain = blocks.ancestry(config.read_params(Path("params.yaml")), "p-student-long")
    assert chain == ["p-teacher", "p-student", "p-student-long"]


def test_a_circle_of_extends_is_refused(params):
    params(("title: Teacher", "extends: p-student-long"))
    message = refusal("p-student")
    assert "circle" in message
    assert "p-student -> p-teacher -> p-student-long" in message


def test_an_ancestor_that_does_not_exist_is_refused(params):
    params(("extends: p-teacher", "extends: p-teachr"))
    assert "'p-teacher'" in refusal("p-student")


def test_scale_overrides_win_in_order(params):
    # common beats the run's own block, the scale's block of an ancestor beats common, the
    # scale's block of the run itself beats all
    assert load_run("p-teacher", scale="smoke").schedule == config.Schedule(
        steps=6, batch=2, lr=1e-3, warmup=1
    )
    assert load_run("p-student", scale="smoke").schedule.steps == 6
    long = load_run("p-student-long", scale="smoke")
    assert long.schedule == config.Schedule(steps=7, batch=2, lr=1e-3, warmup=1)
    assert long.data.root == "elsewhere"
    assert load_run("p-teacher", scale="sample").schedule.steps == 100


def test_common_overrides_pass_over_a_run_without_that_part(params):
    assert load_run("p-frames", scale="smoke").schedule is None


def test_shared_runs_have_seed_0(params):
    assert load_run("p-frames", seed=3).seed == 0
    assert load_run("p-teacher", seed=3).seed == 3


def test_folders_follow_scale_name_and_seed(params):
    run = load_run("p-teacher", scale="smoke", seed=2)
    assert run.folder == Path("runs/smoke/p-teacher/seed-2")
    assert run.record == Path("results/p/records/smoke/p-teacher/seed-2.json")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("lr: 1.0e-3", "lr: 1", ["runs.p-teacher.schedule.lr", "with a dot", "1.0"]),
        ("lr: 1.0e-3", "lr: 1e-3x", ["schedule.lr", "expected float", "'1e-3x'"]),
        ("lr: 1.0e-3", "lr: true", ["schedule.lr", "expected float", "True"]),
        ("steps: 100", "steps: true", ["schedule.steps", "expected int", "True"]),
        ("steps: 100", "steps: 1.0e+2", ["schedule.steps", "expected int", "100.0"]),
        ("steps: 100", "steps: '100'", ["schedule.steps", "expected int", "'100'"]),
        ("steps: 100", "step: 100", ["schedule", "'step'", "Did you mean 'steps'?"]),
        ("steps: 100, ", "", ["schedule.steps", "missing", "allowed keys"]),
        ("title: Teacher", "titel: Teacher", ["'titel'", "Did you mean 'title'"]),
        ("title: Teacher", "title: null", ["runs.p-teacher.title", "expected str"]),
        ("name: supervised", "name: supervise", ["method.name", "supervised, distil, matching"]),
        ("blocks: [2, 2]", "blocks: 2", ["model.blocks", "expected a list"]),
        ("blocks: [2, 2]", "blocks: [2, 2.0]", ["model.blocks[1]", "expected int"]),
        ("size: [72, 128]", "size: [72]", ["data.size", "expected 2 values"]),
        ("method: {name: supervised}", "method: 3", ["runs.p-teacher.method", "block of keys"]),
    ],
)
def test_wrong_keys_and_types_are_refused(params, old, new, told):
    params((old, new))
    message = refusal()
    for words in told:
        assert words in message


def test_unknown_names_are_refused_with_the_known_ones(params):
    assert "Did you mean 'p-teacher'?" in refusal("p-teachr")
    assert "smoke, sample, gpu, paper" in refusal(scale="huge")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("scales:\n", "scale_list:\n", "top level must be"),
        ("  smoke:\n", "  smok:\n", "Did you mean 'smoke'?"),
        ("    common:\n", "    comon:\n", "Did you mean 'common'?"),
        ("      schedule: {steps: 6", "      schedul: {steps: 6", "Did you mean 'schedule'?"),
        ("      p-student-long:", "      p-student-lang:", "Did you mean 'p-student-long'?"),
        ("  sample: {}", "  sample:", "scales.sample: expected a block"),
        ("seeds: [0, 1]", "seeds: 0", "seeds"),
        ("seeds: [0, 1]", "seeds: [0", "not valid YAML"),
        ("    title: Teacher", "    seed: 7", "seed"),
        ("  p-frames:\n", "  p-empty:\n  p-frames:\n", "runs.p-empty: expected a block"),
    ],
)
def test_a_file_that_is_put_together_wrongly_is_refused(params, old, new, told):
    params((old, new))
    assert told in refusal()


def test_settings_that_a_method_would_ignore_are_refused(params):
    params(("name: matching, mixup: true", "name: distil, mixup: true"))
    assert "mixup" in refusal("p-student")
    params(("name: matching, mixup: true", "name: matching, label_weight: 0.5"))
    assert "label_weight" in refusal("p-student")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps: 100", "steps: -5", "steps -5"),
        ("batch: 8", "batch: 0", "batch 0"),
        ("name: matching, mixup: true", "name: matching, temperature: -2.0", "temperature"),
        ("name: matching, mixup: true", "name: distil, label_weight: -0.5", "label_weight"),
    ],
)
def test_values_that_would_train_away_from_the_goal_are_refused(params, old, new, told):
    params((old, new))
    assert told in refusal("p-student")


def test_factors_of_a_method_are_not_negative():
    for options in ({"weight": -1.0}, {"scores_weight": -1.0}, {"psi": 1.5}):
        with pytest.raises(ConfigError, match="imitation"):
            config.Imitation(letters=("I",), **options)
    with pytest.raises(ConfigError, match="attention_weight"):
        config.Affinity(terms=("attention",), attention_weight=-0.1)


def test_no_two_runs_share_a_block():
    """DVC would lose a value that `dvc exp run -S` sets in one of them."""
    params = config.read_params(ROOT / "params.yaml")
    seen: set[int] = set()

    def walk(block) -> None:
        if isinstance(block, dict):
            assert id(block) not in seen, f"an anchor below `runs`: {block}"
            seen.add(id(block))
            for part in block.values():
                walk(part)

    walk(params["runs"])
    assert len(seen) > 200


def test_outside_a_repository_nothing_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "dvc.yaml" in refusal()


def test_the_repository_is_found_from_a_folder_within(params, monkeypatch):
    root = params()
    (root / "notebooks" / "paper").mkdir(parents=True)
    monkeypatch.chdir(root / "notebooks" / "paper")
    assert config.repository() == root.resolve()


def test_settings_hash_follows_what_can_change_a_result(params):
    run = load_run("p-student")
    same = [
        dataclasses.replace(run, name="other"),
        dataclasses.replace(run, seed=5),
        dataclasses.replace(run, title="Other"),
        dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, workers=7)),
        dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, save_every_s=1.0)),
    ]
    assert {other.settings_hash() for other in same} == {run.settings_hash()}
    other = [
        dataclasses.replace(run, teacher="p-frames"),
        dataclasses.replace(run, init="p-teacher"),
        dataclasses.replace(run, augment=config.Augment(flip=0.0)),
        dataclasses.replace(run, method=config.Method("matching")),
        dataclasses.replace(run, data=dataclasses.replace(run.data, pool=9)),
        dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, lr=2e-3)),
        dataclasses.replace(run, model=dataclasses.replace(run.model, width=9)),
    ]
    assert len({one.settings_hash() for one in [run, *other]}) == len(other) + 1


def test_the_parameters_of_this_repository_load_at_every_scale(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = config.read_params(ROOT / "params.yaml")
    for scale in config.SCALES:
        runs = {
            name: config.build_run(params, name, scale=scale, seed=1) for name in params["runs"]
        }
        for name, run in runs.items():
            upstream = {run.teacher, run.data.frames, run.init} - {None, "imagenet"}
            assert upstream <= set(runs), f"{name} at {scale}"
            assert (run.frames is None) == (run.schedule is not None), f"{name} at {scale}"
            if run.data.frames:
                assert runs[run.data.frames].frames is not None


def test_a_rate_that_drops_needs_to_know_when():
    with pytest.raises(ConfigError, match=r"schedule\.drops"):
        config.Schedule(steps=10, batch=2, lr=1e-3, decay="step")
    with pytest.raises(ConfigError, match=r"schedule\.drops"):
        config.Schedule(steps=10, batch=2, lr=1e-3, drops=(0.5,))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        config.Schedule(steps=10, batch=2, lr=1e-3, decay="step", drops=(5.0,))


def test_each_gradient_is_clipped_to_a_norm_only():
    with pytest.raises(ConfigError, match="clip_norm"):
        config.Schedule(steps=10, batch=2, lr=1e-3, clip_each=True)


def test_options_that_came_later_leave_a_hash_alone(params):
    run = load_run("p-teacher")
    assert "clip_each" not in run.settings()["schedule"]
    plan = dataclasses.replace(run.schedule, clip_norm=1.0)
    once, each = (
        dataclasses.replace(run, schedule=dataclasses.replace(plan, clip_each=value))
        for value in (None, True)
    )
    assert once.settings_hash() != each.settings_hash()
    model = dataclasses.replace(run.model, detector=config.Detector())
    found = dataclasses.replace(model, detector=config.Detector(score_threshold=0.0))
    plain, asked = (dataclasses.replace(run, model=one) for one in (model, found))
    assert plain.settings()["model"]["detector"] == {}
    assert asked.settings()["model"]["detector"] == {"score_threshold": 0.0}
    stills = [config.Subset("train"), config.Subset("train", unlisted=True)]
    data = dataclasses.replace(run.data, tune=stills[0], unlabelled=stills)
    found = dataclasses.replace(run, data=data).settings()["data"]
    subsets = [found["labelled"], found["report"], found["tune"], *found["unlabelled"]]
    assert ["unlisted" in subset for subset in subsets] == [False] * 4 + [True]


def test_the_zoos_recipe_for_boxes_at_paper_scale():
    params = config.read_params(ROOT / "params.yaml")
    ways = ("teacher", "supervised", "distil", "matching")
    runs = [config.build_run(params, f"funmatch-det-{way}", scale="paper") for way in ways]
    for run in runs:
        plan = run.schedule
        assert (plan.optimiser, plan.lr, plan.batch, plan.clip_norm) == ("sgd", 0.01, 32, 35.0)
        assert (plan.weight_decay, plan.warmup, plan.decay) == (1e-4, 500, "step")
        # 36 passes over 70,000 stills, a tenth of the rate after the 24th and the 33rd
        assert plan.steps == 36 * 70_000 // 32
        assert [round(36 * share) for share in plan.drops] == [24, 33]
        assert (run.init, run.model.detector.frozen) == ("imagenet", "lower")
        assert run.model.detector.frozen_norm
    for name in ("funmatch-det-pretrain", "funmatch-det-start", "funmatch-seg-start"):
        assert config.build_run(params, name, scale="paper").schedule.steps == 1
