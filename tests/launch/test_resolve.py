"""What a configuration becomes on a given machine, and what is refused before anything starts.

Long, since launch/resolve.py is where all that a user can get wrong is refused: one message a test.
"""

import dataclasses
import sys
import traceback

import pytest
import torch

from launch.config import ConfigError, ResolvedConfig, RunConfig
from launch.config_file import parse, to_toml
from launch.environment import Environment
from launch.planning.notes import notes_on
from launch.planning.resolved import Resolved
from launch.resolve import dump, resolve, restore
from models.plugins import UsersError

from .environs import TORCHRUN

USERS_MODULE = """
import torch
from torch import nn
from models.network import Network, Unit

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU())

def build_shared():
    layer = nn.Linear(256, 256)
    return nn.Sequential(nn.Sequential(nn.Flatten(), layer), layer)

def build_twice():
    relu = nn.ReLU()
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), relu, nn.Linear(8, 8), relu)

def needs_one(width):
    return nn.Sequential(nn.Linear(256, width))

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones(8))
        self.b = nn.Parameter(torch.ones(8, dtype=torch.float64))

    def forward(self, x):
        return (x * self.a * self.b).float()

def build_mixed():
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(256, 8)), Mixed())

def build_linear():
    return nn.Linear(256, 8)

class Pair(nn.Module):
    def forward(self, x):
        return x, x

class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters = nn.Parameter(torch.ones(129, dtype=torch.complex64))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * self.filters)

def build_pair():
    return nn.Sequential(nn.Flatten(), Pair())

def build_spectral():
    return nn.Sequential(nn.Flatten(), Spectral(), Spectral(), Spectral())

def build_ill_fitting():
    return nn.Sequential(nn.Flatten(), nn.Linear(255, 8))

LAYER = nn.Linear(256, 256)

def build_one_layer():
    units = tuple(Unit(name=n, prefix=n, build=lambda: LAYER) for n in ("a.", "b."))
    return Network(name="one layer", units=units)

class OptimizedModule(nn.Module):  # as torch.compile's
    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

def build_compiled():
    return nn.Sequential(nn.Flatten(), OptimizedModule(nn.Linear(256, 8)))

def transformer():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(1, 8, 4, 4)

        def forward(self, x):
            return self.embed(x).flatten(2).mT

    def layer():
        return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    return nn.Sequential(Patches(), layer(), layer())

def raw():
    images = 255 * torch.rand(12, 1, 16, 16)
    return images, torch.arange(12) % 3, images[:3], torch.arange(3)

def channels_last():
    images = torch.rand(12, 16, 16, 3)
    return images, torch.arange(12) % 3, images, torch.arange(12) % 3

def one():
    return torch.rand(1, 1, 16, 16), [0], torch.rand(1, 1, 16, 16), [0]

def hole():
    images, labels, test_images, test_labels = twelve()
    test_images = test_images.clone()
    test_images[2, 0, 3, 3] = torch.nan
    return images, labels, test_images, test_labels

def build_frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Tanh())

HEAD = nn.PReLU()  # which takes any shape

def one_head(in_shape, **given):
    return HEAD

def bare_head(in_shape, **given):
    return nn.Flatten()

def unlabelled():
    images, labels, test_images, test_labels = twelve()
    return images, labels * 0 - 1, test_images, test_labels * 0 - 1

class Labelled:
    uses_labels, head_features = True, None
    def __init__(self, **given): pass
    def __call__(self, projections_2BD, labels_B):
        return projections_2BD.sum()

class PerImage:
    uses_labels = False
    head_features = None
    def __init__(self, **given): pass
    def __call__(self, projections_2BD, labels_B):
        return projections_2BD.sum(1)

def twelve():
    images = torch.rand(12, 1, 16, 16)
    labels = torch.arange(12) % 3
    return images, labels, images[:3], labels[:3]
"""


def machine(**changes: int | str | None) -> Environment:
    facts: dict[str, int | None] = {
        "world_size": None,
        "local_world_size": None,
        "cores": 2,
        "gpus": 0,
    }
    return Environment(**(facts | changes))


def torchrun(world_size: int, local_world_size: int | None = None) -> Environment:
    return machine(world_size=world_size, local_world_size=local_world_size or world_size)


def resolved(environment: Environment | None = None, **settings: object) -> Resolved:
    return resolve(RunConfig(**settings), environment=environment or machine())


def light(environment: Environment | None = None, **settings: object) -> Resolved:
    """For what the network has no part in: one that is quick to look at."""
    return resolved(environment, **({"model": "mlp", "decoder_depth": (0,)} | settings))


def resume(
    recorded: ResolvedConfig, environment: Environment | None = None, **settings: object
) -> Resolved:
    config = RunConfig(**({"model": "mlp", "decoder_depth": (0,)} | settings))
    return resolve(config, environment=environment or machine(), recorded=recorded)


def refusal(environment: Environment | None = None, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(environment, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    (tmp_path / "users_module.py").write_text(USERS_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    yield "users_module"
    sys.modules.pop("users_module", None)


def test_defaults_are_locos_cut_for_four_workers():
    run = resolved()
    assert run.config == ResolvedConfig(
        given=RunConfig(),
        workers=4,
        cuts=(0, 1, 2, 3),
        overlap=(1, 1, 1),
        lag=1,
        epochs=12,
        steps=264,
        threads=1,
        device="cpu",
        link="shm",
        window=2,
        snapshot_every=4,
        retain_mb=1024,
        checkpoint_every=22,
    )
    assert run.network.units[0].name == "stem"
    assert run.partition.cuts == (0, 1, 2, 3)
    assert (run.image_shape, run.num_classes, run.num_train) == ((1, 16, 16), 10, 1437)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"workers": 2, "lag": 3, "decoder_depth": (2,)},
        {"steps": 25, "cuts": (0, 2), "decoder_depth": (1, 0)},
        {"method": "e2e", "workers": 4},
    ],
)
def test_resolved_config_resolves_to_itself(tmp_path, settings):
    first = resolved(**settings)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(first.config))
    again = resolve(parse(["--config", str(file)], prog="x"), environment=machine())
    assert again.config == first.config
    assert again.partition == first.partition


@pytest.mark.parametrize(
    ("settings", "environment", "workers"),
    [
        ({}, machine(), 4),
        ({"workers": 3}, machine(), 3),
        ({}, torchrun(2), 2),
        ({"workers": 2}, torchrun(2), 2),
        ({"cuts": (0, 2)}, machine(), 2),
        ({"model": "mlp", "overlap": 2, "decoder_depth": (0,)}, machine(), 2),
    ],
)
def test_number_of_workers(settings, environment, workers):
    assert resolved(environment, **settings).config.workers == workers


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("overlap", [0, 1])
def test_workers_up_to_the_number_of_units_work(workers, overlap):
    run = resolved(workers=workers, overlap=overlap)
    assert run.partition.num_blocks == workers == run.config.workers


def test_resumed_run_has_the_recorded_cuts_and_threads():
    """On more cores it took more threads, and each sum was rounded otherwise from there on."""
    recorded = light(machine(cores=4), workers=2).config
    more = machine(cores=16)
    assert light(more, workers=2).config.threads == 8
    for given in ({}, {"workers": 2}):
        config = resume(recorded, more, **given).config
        assert (config.workers, config.threads, config.cuts) == (2, 2, recorded.cuts)
        assert (config.given.cuts, config.given.threads) == (None, None)
    assert resume(recorded, more, threads=3).config.threads == 3
    recut = resume(recorded, more, workers=4).config
    assert (recut.workers, recut.threads) == (4, 4)


@pytest.mark.parametrize("cuts", [None, "auto", "profiled"])
def test_recorded_cuts_stay_if_they_are_chosen_as_before(cuts):
    """Another measurement may find others, and the run would not end where it was to end."""
    given = light(workers=2, cuts=cuts).config.given
    recorded = light(workers=2, cuts=(0, 3)).config
    recorded = dataclasses.replace(recorded, given=given)
    assert resume(recorded, workers=2, cuts=cuts).config.cuts == (0, 3)
    for other in ({"cuts": (0, 1)}, {"max_memory_mb": 999}, {"overlap": 0}):
        run = resume(recorded, **{"workers": 2, "cuts": cuts} | other)
        assert run.config.cuts != (0, 3)
        assert run.config.threads == recorded.threads


def test_torchruns_workers_go_before_the_recorded_ones():
    recorded = light(workers=2).config
    assert resume(recorded, torchrun(3)).config.workers == 3


@pytest.mark.parametrize(
    "timed", ["launch.planning.unit_times._time", "launch.resolve.make_source"]
)
def test_gpu_too_small_to_time_what_it_will_run_is_told_with_a_remedy(monkeypatch, timed):
    def fill(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(timed, fill)
    with pytest.raises(ConfigError, match=r"on 4 samples .*2 GiB.*smaller --batch-size"):
        resolved(cuts="profiled", workers=2, batch_size=2)


def test_overlap_that_leaves_one_worker_is_refused():
    """It ran with one worker, without a word."""
    settings = {"model": "mlp", "decoder_depth": (0,), "overlap": 4}
    assert refusal(**settings) == (
        "overlap 4 leaves no place for a second worker in a network of 4 units; give at most 3, or"
        " --workers 1"
    )
    assert resolved(**settings, workers=1).config.workers == 1


def test_memory_that_is_too_little_is_told_in_a_line():
    assert refusal(data="synthetic:1x9x9x99999999999").startswith(
        "this machine's memory is too little (Unable to allocate"
    )


def test_stages_too_short_for_the_overlap_give_way():
    run = resolved(workers=2, overlap=2, model="resnet18-cifar")
    assert min(len(home) for home in run.partition.homes[1:]) >= 2


def test_threads_are_shared_among_the_workers_of_a_host():
    cores = {"cores": 16}
    assert light(machine(**cores)).config.threads == 4
    assert light(machine(**cores), method="e2e").config.threads == 16
    assert light(machine(**cores), threads=3).config.threads == 3
    two_hosts = machine(world_size=4, local_world_size=2, **cores)
    assert light(two_hosts).config.threads == 8
    assert light(machine(cores=1)).config.threads == 1


def test_length_in_epochs_or_steps():
    assert light(epochs=2, batch_size=128).config.steps == 22
    by_steps = light(epochs=2, steps=12, batch_size=128).config
    assert (by_steps.epochs, by_steps.steps) == (2, 12)
    assert light(steps=23, batch_size=128).config.epochs == 3


def test_window_follows_the_lag():
    assert [light(lag=lag).config.window for lag in (0, 1, 4)] == [2, 2, 5]
    assert light(lag=4, window=3).config.window == 3


def test_snapshots_and_checkpoints():
    """A checkpoint an epoch; snapshots as rare as the memory to keep messages allows."""
    config = light(epochs=2, batch_size=128).config
    assert (config.snapshot_every, config.checkpoint_every) == (4, 11)
    config = light(snapshot_every=9, checkpoint_every=5).config
    assert (config.snapshot_every, config.checkpoint_every) == (9, 5)
    assert resolved(batch_size=256, retain_mb=40).config.snapshot_every < 4


def test_memory_too_little_for_messages_is_refused():
    assert "retain-mb 1 is too little: worker 3 must retain" in refusal(retain_mb=1)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ("kill:4@3", "fault 'kill:4@3': there is no worker 4; the job has 0 to 3"),
        ("drop:3-4@3", "fault 'drop:3-4@3': there is no worker 4; the job has 0 to 3"),
        ("kill:0@264", "fault 'kill:0@264': the job ends before step 264"),
    ],
)
def test_faults_that_the_job_never_meets_are_refused(faults, message):
    assert refusal(faults=faults) == message


def test_device():
    assert light(machine(gpus=1)).config.device == "cuda"
    assert light(machine(gpus=1), device="cpu").config.device == "cpu"
    assert refusal(device="cuda") == (
        "device cuda is asked for, but no GPU is seen; use --device cpu or auto"
    )


def test_link():
    two_hosts = torchrun(4, local_world_size=2)
    assert light(torchrun(4), link="zmq").config.link == "zmq-ipc"
    assert light(link="zmq-tcp").config.link == "zmq-tcp"
    assert light(two_hosts).config.link == "auto"  # decided edge by edge
    assert light(two_hosts, link="zmq").config.link == "zmq-tcp"
    for link in ("zmq-ipc", "shm"):
        assert refusal(two_hosts, link=link) == (
            f"link {link} reaches one host only; use --link auto or zmq"
        )


def test_units_that_share_a_parameter_cannot_be_cut_apart(users_module):
    assert "shares memory between two of its units" in refusal(
        model=f"{users_module}:build_shared", workers=2
    )


def test_module_that_stands_twice_is_two_units(users_module):
    run = resolved(model=f"{users_module}:build_twice", workers=1)
    assert [unit.name for unit in run.network.units] == ["0", "1", "2", "3", "4"]


def test_factory_that_wants_arguments_is_refused(users_module):
    assert "is called with no argument" in refusal(model=f"{users_module}:needs_one")


def test_units_of_two_dtypes_cannot_be_tied_as_one_vector(users_module):
    assert "of several dtypes" in refusal(model=f"{users_module}:build_mixed", workers=2)


def test_end_to_end_is_one_block_with_the_top_blocks_decoder():
    run = resolved(method="e2e", workers=4, cuts=(0, 1, 2, 3), decoder_depth=(1, 1, 1, 2))
    assert (run.config.workers, run.config.cuts, run.config.decoder_depth) == (1, (0,), (2,))
    assert refusal(torchrun(4), method="e2e") == (
        "method e2e trains in one worker, not in the launcher's 4 ranks; start one rank, "
        "or launch/sequential.py"
    )


def test_wire_precision_is_one_if_all_edges_have_the_same():
    for given, found in (
        (("bf16",), ("bf16",)),
        (("bf16", "bf16", "bf16"), ("bf16",)),
        (("exact", "bf16", "exact"), ("exact", "bf16", "exact")),
    ):
        assert light(workers=4, wire_precision=given).config.wire_precision == found


def test_one_process_has_no_edge_that_rounds():
    settings = {"wire_precision": ("bf16", "exact"), "wire_ties": True, "workers": 3}
    config = light(method="e2e", **settings).config
    assert (config.wire_precision, config.wire_ties) == (("exact",), False)
    assert light(workers=1, wire_precision=("bf16",), wire_ties=True).config.workers == 1


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        (
            {"wire_precision": ("exact", "bf16")},
            machine(),
            "wire-precision exact,bf16 has 2 entries for 3 edges; give one for all, or one per"
            " edge",
        ),
        (
            {
                "wire_precision": ("bf16", "exact", "exact"),
                "wire_ties": True,
                "overlap": (0, 1, 1),
            },
            machine(),
            "wire-ties rounds nothing: no edge of wire-precision bf16,exact,exact but exact has a"
            " tie (overlap 0,1,1); give that edge an --overlap, or leave --wire-ties out",
        ),
        (
            {"workers": 6},
            machine(),
            "6 workers with overlap stage don't fit a network of 5 units; at most 5 do",
        ),
        (
            {},
            torchrun(6),
            "6 workers with overlap stage don't fit a network of 5 units; at most 5 do",
        ),
        (
            {"workers": 5},
            torchrun(4),
            "workers 5 are more than the launcher's 4 ranks; leave --workers out, give at most 4, "
            "or start torchrun with --nproc_per_node=5",
        ),
        (
            {"workers": 4, "cuts": (0, 1, 2)},
            machine(),
            "cuts 0,1,2 make 3 blocks for 4 workers; give 4 cuts, or leave them out",
        ),
        (
            {"cuts": (0, 7)},
            machine(),
            "cuts 0,7 end past the last unit; the highest is 4",
        ),
        (
            {"cuts": (0, 1, 2), "overlap": 2},
            machine(),
            "overlap 2 exceeds the home of units 1..1; with cuts 0,1,2 edge 0 can share 1 at most",
        ),
        (
            {"decoder_depth": (1, 2)},
            machine(),
            "decoder-depth 1,2 has 2 numbers for 4 blocks; give one for all, or 4",
        ),
        (
            {"objective": "cross-entropy", "head_features": 32},
            machine(),
            "head-features 32 is not allowed with objective cross-entropy, which needs 10; leave it"
            " out",
        ),
        (
            {"batch_size": 2000},
            machine(),
            "batch size 2000 for 1437 training images; choose from 2 to 1437",
        ),
    ],
)
def test_value_that_does_not_fit_is_refused_with_what_does(settings, environment, message):
    assert refusal(environment, **settings) == message


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"model": "resnet-smal"}, ["'resnet-smal'", "did you mean 'resnet-small'?"]),
        ({"model": "nowhere:build"}, ["no module 'nowhere'"]),
        ({"data": "digit"}, ["'digit'", "did you mean 'digits'?"]),
        ({"data": "synthetic:3x"}, ["'synthetic:3x'", "synthetic:3x32x32"]),
        ({"objective": "nt-xnt"}, ["'nt-xnt'", "did you mean 'nt-xent'?"]),
        ({"optimizer": "adam"}, ["'adam'", "did you mean 'adamw'?"]),
        ({"split": 7}, ["split 7", "0 to 4"]),
    ],
)
def test_unknown_name_is_refused_with_the_known_ones(settings, fragments):
    message = refusal(**settings)
    assert [fragment for fragment in fragments if fragment not in message] == []


def test_users_modules_are_found_in_the_current_directory(users_module):
    run = resolved(
        model=f"{users_module}:build",
        data=f"{users_module}:twelve",
        batch_size=4,
        epochs=30,
        workers=2,
        decoder_depth=(0,),
    )
    assert [unit.name for unit in run.network.units] == ["0", "1", "2"]
    assert (run.num_train, run.num_classes, run.config.steps) == (12, 3, 90)


def test_users_model_of_one_unit_runs_in_one_worker(users_module):
    message = refusal(model=f"{users_module}:build_linear")
    assert "an nn.Sequential is needed" in message
    assert resolved(model=f"{users_module}:build", decoder_depth=(0,)).config.workers == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "build_pair"},
            "(2 of 2) of model 'users_module:build_pair' returned a tuple",
        ),
        ({"model": "build_one_layer"}, "gives the same 'weight' each time that it is built"),
        (
            {"model": "build_frozen", "head": "one_head"},
            "head 'users_module:one_head' of block 1 has the same 'weight' as that of block 0",
        ),
        ({"data": "one"}, "1 training image; at least 2 are needed"),
        (
            {"data": "unlabelled", "objective": "Labelled"},
            "objective users_module:Labelled uses labels, and data 'users_module:unlabelled' have"
            " none; give data with labels, or another --objective, such as nt-xent",
        ),
        ({"data": "hole"}, "data 'users_module:hole': 1 of 3 test images hold values that are not"),
        (
            {"objective": "PerImage"},
            "returned a tensor of shape (128,), float32 for projections",
        ),
    ],
)
def test_users_code_is_refused_in_a_line(users_module, settings, message):
    """Each of these came to light in a worker, after restarts, or at the end of the run."""
    settings = {key: f"{users_module}:{name}" for key, name in settings.items()}
    assert message in refusal(**settings)


@pytest.mark.parametrize("tie", ["elastic", "follow"])
def test_block_without_a_parameter_is_refused(users_module, tie):
    """A worker met it, and its message named no block."""
    own = {"model": f"{users_module}:build_frozen", "head": f"{users_module}:bare_head"}
    assert resolved(**own, cuts=(0,), overlap=0, tie=tie).config.workers == 1
    assert refusal(**own, cuts=(0, 2), overlap=1, tie=tie) == (
        "block 1 (units 2 3) has nothing to optimise, in its head neither; give it a unit or a head"
        " with parameters that require a gradient"
    )


@pytest.mark.parametrize("lag", [0, 1])
def test_unit_that_raises_keeps_its_traceback(users_module, lag):
    """The commonest slip, a layer of another size than its input, named no unit."""
    with pytest.raises(UsersError) as caught:
        resolved(model=f"{users_module}:build_ill_fitting", lag=lag)
    assert str(caught.value).startswith(
        "unit '1' (2 of 2) of model 'users_module:build_ill_fitting' raised RuntimeError on an"
        " input of shape (2, 256), float32: mat1 and mat2 shapes cannot be multiplied"
    )
    assert "forward" in [entry.name for entry in traceback.extract_tb(_origin(caught.value))]


def test_unit_that_fails_is_shown_what_is_odd_of_its_images(users_module):
    """Channels-last images end in the first layer, before any note is printed."""
    with pytest.raises(UsersError) as caught:
        resolved(model=f"{users_module}:build", data=f"{users_module}:channels_last", batch_size=4)
    (note,) = caught.value.__notes__
    assert note.startswith("note: images are taken as 16 channels of 16x3; if 3 is their number")


def _origin(error):
    return error.__cause__.__traceback__


@pytest.mark.parametrize("cuts", [None, "profiled"])
def test_transformer_is_cut(users_module, cuts):
    run = resolved(model=f"{users_module}:transformer", workers=2, cuts=cuts, batch_size=2)
    assert [trace.output_shape for trace in run.traces] == [(16, 8)] * 3


def test_complex_parameters_are_tied(users_module):
    run = resolved(model=f"{users_module}:build_spectral", workers=2, tie="gradient")
    assert run.traces[1].trainable_dtypes == {"complex64"}


def test_remarks_are_told_if_the_run_is_restored(users_module):
    """Only the coordinator loads the data, and so only it can see that they are not scaled."""
    names = {"model": f"{users_module}:build_compiled", "data": f"{users_module}:raw"}
    run = resolved(**names, batch_size=4, workers=1)
    values, compiled = notes_on(restore(dump(run)))
    assert values.startswith("train images hold values from 0")
    assert "is compiled (units 0, 1) and runs here without torch.compile" in compiled


def test_users_package_named_models_is_named_by_its_path(tmp_path, monkeypatch):
    """launch/pipeline.py --model models.net:build found this project's models, and no net."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/__init__.py").touch()
    (tmp_path / "models/net.py").write_text(USERS_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert refusal(model="models.net:build").endswith("--model models/net.py:build")
    run = resolved(model="models/net.py:build", workers=2, decoder_depth=(0,))
    assert len(restore(dump(run)).network.units) == 3


def test_environment_reads_what_torchrun_sets(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert Environment.from_process().world_size is None
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    environment = Environment.from_process()
    assert (environment.world_size, environment.local_world_size) == (4, 2)
    assert environment.cores >= 1


def test_repeated_run_of_another_processor_is_remarked():
    first = light(machine(processor="amx")).config
    assert first.processor == "amx"
    (remark,) = resolve(first, environment=machine(processor="avx")).remarks
    assert remark == (
        "the run of this config.toml was on another processor (amx; this is avx): the last bits may"
        " differ"
    )
    assert resolve(first, environment=machine(processor="amx")).remarks == ()


def test_repeated_run_of_other_torch_or_code_is_remarked():
    first = light().config
    assert (first.torch, first.code) == (torch.__version__, "")
    (remark,) = resolve(dataclasses.replace(first, torch="1.0"), environment=machine()).remarks
    assert remark == (
        f"the run of this config.toml was with torch 1.0 (this is {torch.__version__}): the last"
        " bits may differ"
    )
    before = dataclasses.replace(first, code="model 0a")
    (remark,) = resolve(before, environment=machine()).remarks
    assert remark.startswith("the run of this config.toml had other code (model 0a; here none)")


def test_repeated_run_of_other_data_is_remarked():
    first = light().config
    assert first.data_sizes == "1437 train and 360 test images of 1x16x16, 10 classes"
    before = dataclasses.replace(first, data_digest="abc")
    (remark,) = resolve(before, environment=machine()).remarks
    assert remark.startswith("the run of this config.toml found other data (1437 train and 360 ")
    assert resolve(first, environment=machine()).remarks == ()
