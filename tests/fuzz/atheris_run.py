"""Coverage-guided fuzzing: `python -m tests.fuzz.atheris_run TARGET… --seconds N` (or `all`).

Each target runs in its own process and starts from its samples and its corpus. The inputs that it finds are stored
under `build/fuzz/TARGET/`: a failing input as `crash-…`, its traceback in `log`. The exit status is 1 if an input
failed. Copy such an input to `tests/fuzz/corpus/TARGET/` in the commit that fixes the defect: every test run tries it.
Then `--minimise` adds the smallest inputs that cover code which the corpus did not cover.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fuzz.envelope import join_input

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "build" / "fuzz"
INSTRUMENTED = ["receiver", "werkzeug", "urllib.parse", "itsdangerous"]
LONGEST_KEPT = 512
"""The longest input that `--minimise` adds to the corpus, in bytes."""

_CHILD = "--libfuzzer"  # marks the child process that fuzzes; a target and libFuzzer's options follow
_STATUS = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.atheris_run", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument(
        "--minimise", action="store_true", help="add the inputs that were found to the corpus, and do not fuzz"
    )
    if sys.argv[1:2] == [_CHILD]:
        _fuzz(sys.argv[2], sys.argv[3:])
    arguments = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    names = list(TARGETS) if arguments.targets == ["all"] else arguments.targets
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if arguments.minimise:
        return max(map(_minimise, names))
    return max(_run(name, arguments.seconds) for name in names)


def _run(name: str, seconds: int) -> int:
    from tests.fuzz.targets import CORPUS, INPUT_BYTES, TARGETS

    folder = FOUND / name
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(TARGETS[name].samples()):
        (inputs / f"sample-{number}").write_bytes(sample)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in TARGETS[name].words))
    status = _start(
        name,
        [
            *(f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES}", f"-dict={words}", "-len_control=20"),
            # This timeout is elapsed time, so it is long: the machine may be busy. `check_within_bounds` limits
            # processor time.
            *("-timeout=60", "-rss_limit_mb=1024", "-print_final_stats=1", f"-artifact_prefix={folder}/"),
            *(str(inputs), str(CORPUS / name)),
        ],
    )
    log = (folder / "log").read_text(errors="replace")
    if (done := _STATUS.search(log)) is None:
        print(log[-6000:])
        print(f"{name}: stopped; the input is in {folder}, its trace in {folder / 'log'}")
        return 1
    executions, edges, features, kept = done.groups()
    print(f"{name}: {int(executions):,} inputs in {seconds} s, {edges} edges, {features} features, {kept} inputs kept")
    return status


def _minimise(name: str) -> int:
    from tests.fuzz.targets import CORPUS

    into = CORPUS / name
    small = FOUND / name / "small"
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir(parents=True)
    for found in (FOUND / name / "inputs").iterdir():
        if found.stat().st_size <= LONGEST_KEPT:
            shutil.copy(found, small)
    return _start(name, ["-set_cover_merge=1", "-use_counters=0", f"-max_len={LONGEST_KEPT}", str(into), str(small)])


def _start(name: str, options: list[str]) -> int:
    """Run libFuzzer in a child process, because libFuzzer ends its process; return 1 if an input failed."""
    with (FOUND / name / "log").open("wb") as log:
        ended = subprocess.run(
            [*_child_command(name), *options], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    return min(abs(ended.returncode), 1)


def _child_command(name: str) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.atheris_run", _CHILD, name]


def _fuzz(name: str, options: list[str]) -> None:
    import atheris  # type: ignore[import-untyped]  # imported here, because the tests run without it

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS, check_within_bounds
    target = TARGETS[name]
    # To merge, libFuzzer starts this process again: it passes its first argument to a shell.
    atheris.Setup([shlex.join(_child_command(name)), *options], lambda inputs: check_within_bounds(target, inputs))
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(chr(b) if 32 < b < 127 and chr(b) not in '"\\' else f"\\x{b:02x}" for b in join_input(word))


if __name__ == "__main__":
    sys.exit(main())
