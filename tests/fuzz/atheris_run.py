"""Coverage-guided fuzzing: `python -m tests.fuzz.atheris_run TARGET… --seconds N` (or `all`).

Each target runs in a process of its own, from its samples and corpus on. What it finds is kept under
`build/fuzz/TARGET/`; an input that broke a promise is there as `crash-…`, and its trace in `log`. Exits 1 if there
was one. Copy such an input into `tests/fuzz/corpus/TARGET/` together with the repair: every run of the tests tries it.
`--minimise` then adds to the corpus the smallest inputs that reach what it did not reach before.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fuzz.envelope import sealed

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "build" / "fuzz"
INSTRUMENTED = ["receiver", "werkzeug", "urllib.parse", "itsdangerous"]
LONGEST_KEPT = 512
"""Bytes of an input that `--minimise` takes into the repository."""

_WITHIN = "--libfuzzer"  # the process that fuzzes; what follows is for libFuzzer
_STATUS = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.atheris_run", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--minimise", action="store_true", help="add what was found to the corpus, and run nothing")
    if sys.argv[1:2] == [_WITHIN]:
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
            # What takes long by the clock may be a busy machine; processor time is bounded for each input.
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
    """Run libFuzzer, which ends its process; 0 unless an input broke a promise."""
    with (FOUND / name / "log").open("wb") as log:
        ended = subprocess.run([*_itself(name), *options], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    return min(abs(ended.returncode), 1)


def _itself(name: str) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.atheris_run", _WITHIN, name]


def _fuzz(name: str, options: list[str]) -> None:
    import atheris  # type: ignore[import-untyped]  # only here: the tests run without it

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS, check_within_bounds
    target = TARGETS[name]
    # libFuzzer starts itself again to merge, by a shell and the words it was started with.
    atheris.Setup([shlex.join(_itself(name)), *options], lambda inputs: check_within_bounds(target, inputs))
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(chr(b) if 32 < b < 127 and chr(b) not in '"\\' else f"\\x{b:02x}" for b in sealed(word))


if __name__ == "__main__":
    sys.exit(main())
