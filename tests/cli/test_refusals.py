"""What the command refuses, how soon, and in which words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper

from ddpm.cli import entry
from ddpm.cli.checks import check_export, check_writable, prepare_output
from ddpm.cli.run_config import RunConfig
from ddpm.io.paths import is_file_name
from tests.cli.small_runs import ENVIRONMENT, everything_in


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_names_every_command(ddpm, arguments):
    out, err = ddpm(*arguments, code=0 if arguments else 2)
    assert all(name in out + err for name in ("train", "resume", "sample", "evaluate", "export", "info"))


REFUSED_AT_ONCE = [  # words, exit code, what the message says; {run} is a finished run of 4 steps
    ("train digits --set network.dropuot=1", 1, "network has no option 'dropuot' (did you mean dropout?)"),
    ("train digits --image-size 9", 1, "images of 9×9 do not fit the network"),
    ("train digits --lr -1", 1, "train_lr must be a number above 0, but got -1.0"),
    ("train digits --preset x", 1, "unknown preset 'x'; choose one of digits, fashion-mnist, cifar10, fol"),
    (
        "train digits --mixed-precision fp8",
        1,
        "mixed_precision must be no or fp16 or bf16 or auto, but got 'fp8'",
    ),
    ("train digits --steps 0", 2, "--steps"),
    ("train digits --batch-size -3", 2, "--batch-size"),
    ("train digits --seed -1", 2, "--seed"),
    ("train digits --nonsense", 2, "--nonsense"),
    *[
        (f"{words} {number}", code, message)
        for number in (2**64, 10**30)
        for words, code, message in (
            ("train digits --seed", 1, "seed must be a whole number in 0 … 9223372036854775807, but got"),
            ("train digits --steps", 1, "train_num_steps must be a whole number in 1 … 92233720368547758"),
            ("train digits --batch-size", 1, "train_batch_size must be a whole number in 1 … 92233720368"),
            (
                "train digits --image-size",
                1,
                "image_size must be one whole number >= 1 or a pair of them, each",
            ),
            ("resume {run} --steps", 1, "train_num_steps must be a whole number in 1 … 92233720368547758"),
            ("sample {run} --seed", 2, "--seed"),
            ("sample {run} -n", 2, "--images"),
            ("sample {run} --batch-size", 2, "--batch-size"),
            ("evaluate {run} --seed", 2, "--seed"),
            ("evaluate {run} -n", 2, "--images"),
            ("evaluate {run} --bound-images", 2, "--bound-images"),
            ("evaluate {run} --batch-size", 2, "--batch-size"),
        )
    ],
    ("train digits --image-size 65537", 1, "each at most 65536, but got 65537"),
    ("train digits --out {run}", 1, "already holds a run, up to step 4: resume it with `ddpm resume {run}`"),
    ("train digits --out {run}/run.json", 1, "{run}/run.json is a file; choose another by --out"),
    ("train digits --out {run}/run.json/x", 1, "{run}/run.json/x cannot be written"),
    ("train cifar1", 1, "there is no folder 'cifar1' and no data set of that name (did you mean CIFAR1"),
    ("train ./nowhere", 1, "nowhere does not exist; give the path of a folder that holds images"),
    ("train {run}/run.json", 1, "run.json is a file; give the path of a folder that holds images"),
    ("train . --image-size 8", 1, "lies within the data, "),
    ("train . --image-size 8 --dry-run", 1, "lies within the data, "),
    ("train digits --dry-run --out {run}/run.json/x", 1, "{run}/run.json/x cannot be written"),
    ("train digits --dry-run --out x.png", 1, "x.png is the name of a file, and a folder is wanted"),
    ("train digits --from nowhere", 1, "no model at 'nowhere' (no such folder): give a folder that holds"),
    ("resume nowhere", 1, "error: nowhere is not a folder: give the folder of a run"),
    ("resume {run}/samples", 1, "samples holds no run.json: give the folder of a run that `ddpm tr"),
    ("sample nowhere", 1, "or one of the models that ship: digits"),
    ("sample {run} -n 0", 2, "--images"),
    ("sample {run} --steps 0", 2, "--steps"),
    ("sample {run} --seed -1", 2, "--seed"),
    ("sample {run} --batch-size 0", 2, "--batch-size"),
    ("sample {run} --eta 1.5", 2, "--eta"),
    ("sample {run} --eta -0.5", 2, "--eta"),
    ("sample {run} --sampler euler", 2, "'euler' is not one of '"),
    ("sample {run} --spacing odd", 2, "'odd' is not one of '"),
    ("sample {run} --variance none", 2, "'none' is not one of '"),
    ("sample {run} --weights best", 1, "unknown weights 'best'; choose one of 'ema', 'model'"),
    ("export {run} there --weights ema-0.9", 1, "unknown weights 'ema-0.9'; choose one of 'ema', 'model'"),
    ("sample {run} --label 3", 1, "trained without classes (num_classes): leave --label out"),
    ("sample {run} --label shirt", 1, "trained without classes (num_classes): leave --label out"),
    ("sample {run} --guidance 2", 1, "trained without classes (num_classes): leave --guidance out"),
    ("sample {run} --guidance much", 2, "--guidance"),
    ("sample {run} --guidance nan", 1, "--guidance must be a number, but got nan"),
    ("train digits --classes folders", 1, "is for a folder of images; digits has labels of its own"),
    (
        "train digits --data-root x",
        1,
        "--data-root x is for the files of torchvision's data sets, but the data",
    ),
    ("train ./ --data-root x", 1, "data sets, but the data are the folder /"),
    ("train digits --set data.root=x", 1, "--set data.root=x is for the files of torchvision's data sets"),
    ("evaluate {run} --data-root x", 1, "but the data are the digits of scikit-learn: leave it out"),
    ("resume {run} --data-root x", 1, "but the data are the digits of scikit-learn: leave it out"),
    ("train . --classes labels", 2, "'labels' is not"),
    ("train digits --set data.classes=folders", 1, "data.classes cannot be set so: give --classes"),
    *[
        (f"sample {{run}} --out {name}", 1, f"--out {name} must end in .png, or be a folder for single PNGs")
        for name in (
            *("x.gif", "X.GIF", ".gif", "a/.jpg", "x.jpeg", "x.jfif", "x.heic", "x.avif", "x.tiff", "x.mp4"),
            "x.webm",
            *("x.pdf", "x.npz", "x.npy", "x.pt", "x.safetensors", "x.zip", "x.txt", "x.json", "v1.5/x.svg"),
        )
    ],
    *[
        (
            f"{words} {name}",
            1,
            f"{name} is the name of a file, and a folder is wanted: give one without the .",
        )
        for words in ("train digits --out", "export digits")
        for name in ("run.png", "model.safetensors", "x.gif", ".gif", "a/b.pt", "x.zip")
    ],
    ("sample {run} --out .png", 1, "--out .png has no name before its ending: give one such as samples.png"),
    ("sample {run} --out x.webp", 1, "--out x.webp must end in .png, or be a folder"),
    ("sample {run} --out {run}/run.json/x.png", 1, "{run}/run.json is a file; choose another by --out"),
    ("evaluate nowhere", 1, "error: nowhere is not a folder"),
    ("evaluate {run} -n 3", 2, "--images"),
    ("evaluate {run} --timesteps 0", 2, "--timesteps"),
    ("evaluate {run} --weights best", 1, "unknown weights 'best'; choose one of 'ema', 'model'"),
    ("export nowhere model", 1, "no model at 'nowhere'"),
    ("export {run} {run}/checkpoints/step-00000004", 1, "already holds a model; choose another folder"),
    ("export {run} {run}/run.json/x", 1, "{run}/run.json/x cannot be written"),
    ("info nowhere", 1, "error: nowhere is not the folder of a run"),
]
REFUSED_BEFORE_WORK_STARTS = [
    (
        "train digits --from digits --set data.channels=3",
        1,
        "digits draws images of 1 channel(s), and those of the data have 3: give the data as many, in the command by"
        " --set data.channels=1",
    ),
    ("train digits --set network.dropout=2", 1, "dropout must lie in [0, 1), but got 2"),
    (f"train digits --set network.dim={10**30}", 1, "dim must be a whole number in 1 … 9223372036854775807"),
    (f"train digits --set network.dim_mults=[{10**30}]", 1, "dim_mults must be a list of whole numbers"),
    (f"train digits --set diffusion.timesteps={10**30}", 1, "timesteps must be a whole number in 1 … 9223"),
    (f"sample {{run}} --steps {10**30}", 1, "sampling_timesteps must be a whole number in 1 … 20"),
    (f"evaluate {{run}} --steps {10**30}", 1, "sampling_timesteps must be a whole number in 1 … 20"),
    ("train digits --set network.dim=12", 1, "every width must be a multiple of resnet_block_groups=8"),
    ("train digits --set diffusion.loss_weighting=MaxSNR", 1, "its name must be one of MinSNR, P2"),
    ("train digits --batch-size 2000", 1, "the 1797 there are"),
    (
        "resume {run} --steps 3",
        1,
        "--train-steps 3 is not beyond step 4, where the run stands; give a larger",
    ),
    ("sample {run} --steps 21", 1, "sampling_timesteps must be a whole number in 1 … 20"),
    ("sample {run} --sampler ancestral --steps 5", 1, "ancestral sampling takes all T = 20"),
    ("evaluate {run} --steps 21", 1, "sampling_timesteps must be a whole number in 1 … 20"),
    ("evaluate {run} --sampler ancestral --steps 5", 1, "ancestral sampling takes all T = 20"),
    ("evaluate {run} --sampler ancestral --spacing even", 1, "spacing is for sampler 'ddim' or"),
    ("sample {run} --sampler ancestral --eta 0.5", 1, "eta is for sampler 'ddim', but the sampler is 'ance"),
    ("sample {run} --sampler ancestral --variance learned", 1, "unknown variance 'learned'"),
    ("sample {run} --steps 3 --variance fixed_small", 1, "variance is for sampler 'ancestral'"),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSED_AT_ONCE + REFUSED_BEFORE_WORK_STARTS)
def test_bad_input_is_refused(ddpm, finished, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    before, names = everything_in(finished), sorted(finished.rglob("*"))
    out, err = ddpm(*words.format(run=finished).split(), code=code)
    assert message.format(run=finished) in err
    assert out == ""
    assert (everything_in(finished), sorted(finished.rglob("*"))) == (before, names)
    assert list(tmp_path.iterdir()) == []


def without(part, name):
    return lambda config: config[part].pop(name)


EDITS = {  # of run.json, and what is said of it
    "no such part": (lambda config: config.update(model={}), "'model'"),
    "unknown key": (lambda config: config["network"].update(dimm=3), "network has no option 'dimm' (did you"),
    "part that is none": (lambda config: config.update(network=None), "network must be a list of options"),
    "list for a part": (
        lambda config: config.update(data=["digits"]),
        "data must be a list of options by name",
    ),
    "start": (
        lambda config: config.update(start=["digits"]),
        "start must be the name or the folder of a model",
    ),
    "kind": (
        lambda config: config["network"].update(dim="8"),
        "network.dim must be a whole number, but got '8'",
    ),
    "list": (
        lambda config: config["network"].update(dim_mults=2),
        "network.dim_mults must be a list such as",
    ),
    "range": (lambda config: config["training"].update(seed=-1), "seed must be a whole number of at least 0"),
    "no data": (without("data", "name_or_path"), "data.name_or_path must be there"),
    "no dim": (without("network", "dim"), "network.dim must be there"),
    "no resolutions": (without("network", "dim_mults"), "network.dim_mults must be there"),
    "no size": (without("diffusion", "image_size"), "diffusion.image_size must be there"),
}
COMMANDS = ["info {run}", "resume {run} --steps 9", "evaluate {run}", "train digits --resume --out {run}"]


@pytest.mark.parametrize("edit", EDITS)
def test_a_run_json_that_was_edited_into_none_is_named_with_what_is_wrong(ddpm, run, tmp_path, edit):
    change, message = EDITS[edit]
    config = json.loads((run / "run.json").read_text())
    change(config)
    (run / "run.json").write_text(json.dumps(config))
    for words in COMMANDS:
        _, err = ddpm(*words.format(run=run).split(), code=1)
        assert err.startswith(f"error: {run}/run.json cannot be read as the configuration of a run: ")
        assert message in err
    # What a checkpoint alone is enough for.
    ddpm("sample", run, "-n", "1", "--out", tmp_path / "x.png")
    ddpm("export", run, tmp_path / "model")
    ddpm("train", "digits", "--from", run, "--image-size", "8", "--dry-run")


WITHOUT_TORCH = """
import json, sys
from ddpm.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words.split())
    except SystemExit:
        assert "torch" not in sys.modules, words
"""


def test_help_and_refusals_at_once_do_not_import_torch(finished, tmp_path):
    refused = [words.format(run=finished) for words, _, _ in REFUSED_AT_ONCE]
    words = json.dumps(["--version", "--help", "train --help", *refused])
    command = [sys.executable, "-c", WITHOUT_TORCH, words]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.startswith("ddpm 0.1.0\n")


def of_a_worker(error):
    """The error as torch passes it on from a process that loads images."""
    try:
        raise error
    except type(error):
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(type(error), match="Traceback") as passed_on:
        wrapped.reraise()
    return passed_on.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FloatingPointError(), "FloatingPointError"),
        (OSError(), "OSError"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left", "x.png"), "[Errno 28] No space left: 'x.png'"),
        (ValueError("no such thing"), "no such thing"),
        (of_a_worker(ValueError("x.png: cannot be read")), "x.png: cannot be read"),
        (of_a_worker(RuntimeError("cannot read x.png: 1 of 2: gone")), "cannot read x.png: 1 of 2: gone"),
        (
            MemoryError(),
            "memory does not suffice: take a smaller network, smaller images or batches (MemoryError)",
        ),
    ],
)
def test_errors_are_said_in_words(ddpm, monkeypatch, error, said):
    def fail(_):
        error.__notes__ = ["What is left."]
        raise error

    monkeypatch.setattr(RunConfig, "load", fail)
    assert ddpm("evaluate", "x", code=1)[1] == f"error: {said}\nWhat is left.\n"


def test_faults_of_ours_show_their_origin_as_do_all_errors_when_asked(monkeypatch):
    def fault(_):
        raise KeyError

    with monkeypatch.context() as patched:
        patched.setattr(RunConfig, "load", fault)
        with pytest.raises(KeyError):
            entry.main(["evaluate", "x"])
    monkeypatch.setenv("DDPM_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="no model at"):
        entry.main(["sample", "nowhere"])


@pytest.mark.parametrize(
    "name", ["run", "v1.5", "run.1", "a.b", ".hidden", "my run", "epoch.final", "x.v2", "2026.11.28"]
)
def test_folders_with_a_dot_in_their_name_are_folders(name):
    assert not is_file_name(Path(name))


def test_a_folder_is_no_file_whatever_its_name(tmp_path):
    (tmp_path / "faces.zip").mkdir()
    assert not is_file_name(tmp_path / "faces.zip")
    check_writable(tmp_path / "faces.zip")
    prepare_output(tmp_path / "faces.zip")
    (tmp_path / "grid.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"grid\.png is a folder: give the name of a file in it"):
        prepare_output(tmp_path / "grid.png")


def test_export_writes_over_no_configuration_of_another_program(tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match=r"already holds a config\.json, which would be written over"):
        check_export(tmp_path)
