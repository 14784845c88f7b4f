"""An OCI runtime that hands everything to runc, except that a ``create`` may become a ``restore``.

containerd's shim calls it as it calls runc. It is installed outside every virtual environment and
started several times for each container. So it is a shell script (``setup/runtime_script``), which
calls this for what a shell cannot do; in one file, which is read as either.

    create ID   notes which runc runs it with which --root, names STATE/ID/criu.conf as the file
                of CRIU's options; then `runc restore` if STATE/ID/resume says from what, else
                `runc create`. What is restored is checked first, unless the manager has just
                done so and left STATE/ID/checked, not empty: anybody may start a paused
                worker.
    start ID    just restored: nothing is left to do; else `runc start`
    delete ID   forgets what `create` has noted
    all others  runc

It always *becomes* runc: its caller sees runc's own output, log, exit code and process.
"""

import os
import sys

VERSION = 1
STATE = "/var/lib/warmboot-runtime"
EMPTY = "/run/warmboot/empty"
NOTED, RESUME, OPTIONS = "noted", "resume", "criu.conf"
CHECKED = "checked"
SUMS, BLOCK_BYTES = "sums.json", 8 << 20  # as of a checkpoint's files, see ``sums``
PACKED = ".zst"  # at the end of the name of a file that is compressed, see ``compression``
DESCRIBE = "--warmboot"


def main(words: list[str]) -> int:
    """What the shell asks for, and the log that the shim reads; the exit code."""
    what, log, *rest = (*words, "")
    if what == "describe":
        print(VERSION, STATE)
        return 0
    try:
        if what == "check":
            _check(rest[0])
        elif what == "annotate":
            _annotate(rest[0], rest[1])
        else:
            return _failed(log, rest[0])
    except OSError as error:
        return _failed(log, f"warmboot's runtime: {error}")
    return 0


def _check(images: str) -> None:
    """``OSError`` unless the files in ``images`` are those that were written."""
    import json
    import zlib

    checkpoint, memory = os.path.split(images)
    try:
        with open(os.path.join(checkpoint, SUMS), errors="surrogateescape") as file:
            sums = json.load(file)
    except FileNotFoundError:  # of an earlier version
        return
    kept = {name: found for name, found in sums.items() if name.startswith(memory + "/")}
    there = {f"{memory}/{name}" for name in os.listdir(images)}
    for name in sorted({*kept, *there}, key=lambda name: (not name.endswith(PACKED), name)):
        found = []
        if name.endswith(PACKED):
            raise OSError("the checkpoint is compressed: resume it with `warmboot worker resume`")
        with open(os.path.join(checkpoint, name), "rb") as file:
            while block := file.read(BLOCK_BYTES):
                found.append(zlib.crc32(block))
            found.insert(0, file.tell())
        if kept.get(name) != found:
            raise OSError(f"the checkpoint is damaged: {checkpoint}/{name} is not what was written")


def _annotate(path: str, options: str) -> None:
    """Have the file of CRIU's options in a bundle's configuration that has annotations already."""
    import json

    with open(path, errors="surrogateescape") as file:
        config = json.load(file)
    annotations = config.get("annotations") or {}
    config["annotations"] = {**annotations, "org.criu.config": options}
    with open(path + ".new", "w", errors="surrogateescape") as file:
        json.dump(config, file)
    os.replace(path + ".new", path)


def _failed(log: str, message: str) -> int:
    """Tell it where the shim looks for it: runc's log."""
    print(message, file=sys.stderr)
    text = message.replace("\\", "\\\\").replace('"', '\\"')
    if log:
        with open(log, "a") as file:
            file.write('{"level":"error","msg":"' + text + '"}\n')
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
