"""An OCI runtime that hands everything to runc, except that a ``create`` may become a ``restore``.

containerd's shim calls it as it calls runc. It is installed outside every virtual environment and
started several times for each container, so it imports only what the interpreter has loaded anyway.

    create ID   notes which runc runs it with which --root, names STATE/ID/criu.conf as the file
                of CRIU's options; then `runc restore` if STATE/ID/resume says from what, else
                `runc create`. What is restored is checked first, unless the manager has just
                done so and left STATE/ID/checked: anybody may start a paused worker.
    start ID    just restored: nothing is left to do; else `runc start`
    delete ID   forgets what `create` has noted
    all others  runc

It always *becomes* runc: its caller sees runc's own output, log, exit code and process.
"""

import os
import sys

VERSION = 1
STATE = "/var/lib/warmboot-runtime"
NOTED, RESUME, RESTORED, OPTIONS = "noted", "resume", "restored", "criu.conf"
CHECKED = "checked"
SUMS, BLOCK_BYTES = "sums.json", 8 << 20  # as of a checkpoint's files, see ``sums``
PACKED = ".zst"  # at the end of the name of a file that is compressed, see ``compression``
DESCRIBE = "--warmboot"

_RUNC = "runc"
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GLOBAL_VALUES = ("--log", "--log-format", "--root", "--criu", "--rootless")
_CREATE_VALUES = ("--bundle", "-b", "--console-socket", "--pid-file", "--preserve-fds")
_RESTORE_TAKES = ("--bundle", "-b", "--console-socket", "--pid-file", "--no-pivot")


def main(words: list[str]) -> int:
    """The exit code of what is done here; for all else this process becomes runc."""
    at, options = _split(words)
    if words[at:] == [DESCRIBE]:
        print(VERSION, STATE)
        return 0
    try:
        runc = _found(_RUNC)
        noted = f"{options.get('--root', '/run/runc')}\n{runc}\n"
        given = _words_for_runc(words, at, noted)
        return 0 if given is None else os.execve(runc, [_RUNC, *given], os.environ)
    except OSError as error:
        return _failed(options.get("--log", ""), f"warmboot's runtime: {error}")


def _words_for_runc(words: list[str], at: int, noted: str) -> list[str] | None:
    """``None`` when there is nothing left to do."""
    command = words[at] if at < len(words) else ""
    folder = os.path.join(STATE, words[-1]) if words else ""
    if command == "create":
        return _create(words, at, noted, folder)
    if command == "start" and _forget(folder, RESTORED):
        _forget(folder, RESUME)
        return None
    if command == "delete":
        _delete(folder)
        _unmount_rest(os.path.join(noted.splitlines()[0], words[-1], "criu-root"))
    return words


def _split(words: list[str]) -> tuple[int, dict[str, str]]:
    """Where the command stands, and the values of the options before it."""
    at, options = 0, {}
    while at < len(words) and words[at].startswith("-") and words[at] != DESCRIBE:
        name, equals, value = words[at].partition("=")
        if name in _GLOBAL_VALUES and not equals:
            at += 1
            value = words[at] if at < len(words) else ""
        options[name] = value
        at += 1
    return at, options


def _found(name: str) -> str:
    """Where a program is; nowhere: its name, which the kernel then does not find either."""
    for folder in os.environ.get("PATH", _SEARCH_PATH).split(":"):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    return name


def _create(words: list[str], at: int, noted: str, folder: str) -> list[str]:
    """The words for runc: those of ``create`` as they are, or a ``restore`` in their place."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _forget(folder, RESTORED)
    _write(folder, NOTED, noted)
    _annotate(_value(words[at:], "--bundle", "-b"), os.path.join(folder, OPTIONS))
    order = _read(folder, RESUME)
    if order is None:
        return words
    path, images, work, *criu = order.splitlines()
    if not _forget(folder, CHECKED):
        _check(images)
    _write(folder, OPTIONS, "".join(option + "\n" for option in criu))
    os.environ["PATH"] = path + ":" + os.environ.get("PATH", _SEARCH_PATH)
    _write(folder, RESTORED, "")
    given = ["--detach", "--image-path", images, "--work-path", work]
    return [*words[:at], "restore", *given, *_kept(words[at + 1 : -1]), words[-1]]


def _check(images: str) -> None:
    """``OSError`` unless the files in ``images`` are those that were written."""
    import json  # as below
    import zlib

    checkpoint, memory = os.path.split(images)
    text = _read(checkpoint, SUMS)
    if text is None:  # of an earlier version
        return
    kept = {name: sums for name, sums in json.loads(text).items() if name.startswith(memory + "/")}
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


def _annotate(bundle: str, options: str) -> None:
    """Have runc give CRIU the options in that file, as they are at each pause and resume."""
    path = os.path.join(bundle or ".", "config.json")
    with open(path, errors="surrogateescape") as file:
        text = file.read()
    _write(bundle or ".", "config.json", _annotated(text, options))


def _annotated(text: str, options: str) -> str:
    """``json`` takes as long to load as all the rest; only if there are some it is needed."""
    if '"annotations"' not in text and _is_object(text) and _is_plain(options):
        return '{"annotations": {"org.criu.config": "' + options + '"}, ' + text[1:]
    import json

    config = json.loads(text)
    annotations = config.get("annotations") or {}
    config["annotations"] = {**annotations, "org.criu.config": options}
    return json.dumps(config)


def _is_plain(text: str) -> bool:
    """Whether it means itself in a string of JSON."""
    return text.isascii() and text.isprintable() and not {'"', "\\"} & set(text)


def _is_object(text: str) -> bool:
    """One with something in it."""
    return text.startswith("{") and text[1:].lstrip().startswith('"')


def _value(words: list[str], *names: str) -> str:
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else words[at + 1]
    return ""


def _kept(options: list[str]) -> list[str]:
    """Of the options of ``create`` those that ``restore`` has, too."""
    found: list[str] = []
    at = 0
    while at < len(options):
        name, equals, _ = options[at].partition("=")
        width = 2 if name in _CREATE_VALUES and not equals else 1
        if name in _RESTORE_TAKES:
            found += options[at : at + width]
        at += width
    return found


def _delete(folder: str) -> None:
    for name in (RESTORED, NOTED, OPTIONS):
        _forget(folder, name)
    try:
        os.rmdir(folder)
    except OSError:  # an order is in it, or it is not there
        return


def _unmount_rest(left: str) -> None:
    """A runc that was killed at a restore leaves it, and cannot delete the container then."""
    if os.path.isdir(left):
        os.spawnv(os.P_WAIT, _found("umount"), ["umount", "--lazy", left])


def _failed(log: str, message: str) -> int:
    """Tell it where the shim looks for it: runc's log."""
    print(message, file=sys.stderr)
    text = message.replace("\\", "\\\\").replace('"', '\\"')
    if log:
        with open(log, "a") as file:
            file.write('{"level":"error","msg":"' + text + '"}\n')
    return 1


def _read(folder: str, name: str) -> str | None:
    try:
        with open(os.path.join(folder, name), errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(folder: str, name: str, text: str) -> None:
    path = os.path.join(folder, name)
    with open(path + ".new", "w", errors="surrogateescape") as file:
        file.write(text)
    os.replace(path + ".new", path)


def _forget(folder: str, name: str) -> bool:
    """Whether it was there."""
    try:
        os.unlink(os.path.join(folder, name))
    except FileNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
