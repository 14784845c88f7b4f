// What of the page can be wrong without a browser; `tests/unit/test_page_logic.py` runs it.
import assert from "node:assert/strict";
import { test } from "node:test";

const at = (name) => import(new URL(`../../src/warmboot/page/static/app/${name}.js`, import.meta.url));
const { age, port, seconds, size, status, tone } = await at("format");
const { coldReasons, oneAfterTheOther, saved, waterfall } = await at("boots");
const { snapshotTitle, tree } = await at("registry");
const { gauges } = await at("metrics");
const { eventReader } = await at("sse");
const { lineKeeper, seen } = await at("lines");
const { states, verbs } = await at("verbs");
const { repeated } = await at("repeated");
const { brief, matches, merged, newestId } = await at("journal");

const NOW = Date.parse("2026-01-24T12:00:00Z");
const MINUTES_AGO = "2026-01-24T11:57:00Z";

test("ages and sizes are told in the words of the command line", () => {
  const words = [[0.4, "under a second"], [1, "1 second"], [59, "59 seconds"], [60, "a minute"], [119, "a minute"],
    [120, "2 minutes"], [3600, "1 hour"], [7200, "2 hours"], [86_400, "1 day"], [200_000, "2 days"], [-5, "under a second"]];
  for (const [value, told] of words) assert.equal(age(value), told);
  for (const [value, told] of [[null, ""], [0, "0 B"], [1023, "1023 B"], [1024, "1.0 KiB"], [512 << 20, "512.0 MiB"], [2 ** 40, "1.0 TiB"]]) {
    assert.equal(size(value), told);
  }
  for (const [value, told] of [[null, ""], [0.0042, "4 ms"], [0.42, "0.42 s"], [3.14, "3.1 s"], [41, "41 s"], [180, "3 minutes"]]) {
    assert.equal(seconds(value), told);
  }
});

test("a status is what `warmboot ps` says", () => {
  const runs = { state: "running", started_at: MINUTES_AGO, answering: true, error: null };
  assert.equal(status(runs, NOW), "Up 3 minutes");
  assert.equal(status({ ...runs, health: "unhealthy" }, NOW), "Up 3 minutes (unhealthy)");
  assert.equal(status({ ...runs, answering: false }, NOW), "Up 3 minutes (Not answering)");
  assert.equal(status({ ...runs, error: { code: "disk-full" } }, NOW), "Up 3 minutes (Stalled)");
  assert.equal(status({ state: "paused", started_at: MINUTES_AGO }, NOW), "Up 3 minutes (Paused)");
  assert.equal(status({ state: "exited", exit_code: 3, finished_at: MINUTES_AGO }, NOW), "Exited (3) 3 minutes ago");
  assert.equal(status({ state: "parked" }, NOW), "Parked");
  assert.deepEqual([tone(runs), tone({ ...runs, answering: false }), tone({ state: "failed" }), tone({ state: "creating" })],
    ["good", "bad", "bad", "busy"]);
});

test("a port leads where it is published, and only to numbers and addresses", () => {
  const tcp = { host_ip: "127.0.0.1", host_port: 8080, container_port: 80, protocol: "tcp" };
  assert.deepEqual(port(tcp, "vm.example"), { label: "8080→80/tcp", url: "http://127.0.0.1:8080/" });
  assert.equal(port({ ...tcp, host_ip: "0.0.0.0" }, "vm.example").url, "http://vm.example:8080/");
  assert.equal(port({ ...tcp, host_ip: "::1" }, "x").url, "http://[::1]:8080/");
  assert.equal(port({ ...tcp, protocol: "udp" }, "x").url, null);
});

test("a waterfall's stages lie within the whole, where they began", () => {
  const { whole_s, rows } = waterfall([
    { name: "disk", started_s: 1, duration_s: 1 },
    { name: "restore", started_s: 2, duration_s: 2, steps: [{ name: "clock", duration_s: 0.1 }] },
  ]);
  assert.equal(whole_s, 4);
  assert.deepEqual(rows.map(({ left, width }) => [left, width]), [[25, 25], [50, 50]]);
  assert.deepEqual(waterfall([]), { whole_s: 0, rows: [] });
  assert.deepEqual(waterfall([{ name: "x", started_s: 0, duration_s: 0 }]).rows[0].width, 0);
  const told = oneAfterTheOther([{ name: "a", seconds: 1 }, { name: "b", seconds: 2 }]);
  assert.deepEqual(told.map((one) => one.started_s), [0, 1]);
});

test("time saved counts what was measured, and nothing else", () => {
  const warm = (seconds, cold_boot_s) => ({ data: { boot_method: "warm", seconds, cold_boot_s } });
  assert.equal(saved([warm(1, 30), warm(1, null), warm(5, 3), { data: { boot_method: "cold", seconds: 9, cold_boot_s: 30 } }]), 29);
  assert.deepEqual(coldReasons({ requested: 1, no_snapshot: 3 }), [["no_snapshot", 3], ["requested", 1]]);
});

test("snapshots hang below what they lie on", () => {
  const one = (id, more) => ({ id, runtime_image_id: "i", parent_id: null, version: 0, created_at: id, depth: "runtime", metadata: {}, ...more });
  const snapshots = [one("a", { version: 1 }), one("b", { version: 2 }), one("c", { parent_id: "a" }), one("d", { parent_id: "gone" }), one("e", { parent_id: "e" })];
  const [{ below }] = tree([{ id: "i" }], snapshots);
  assert.deepEqual(below.map((node) => [node.snapshot.id, node.below.map((child) => child.snapshot.id)]),
    [["b", []], ["a", ["c"]], ["e", []], ["d", []]]);
  assert.deepEqual(tree([{ id: "other" }], snapshots)[0].below, []);
  assert.equal(snapshotTitle(one("a", { version: 3 })), "version 3");
  assert.equal(snapshotTitle(one("a", { depth: "image", metadata: { image: "redis:7" } })), "image redis:7");
  assert.equal(snapshotTitle(one("a", { depth: "engine", name: "base" })), "engine base");
});

test("metrics are read with and without labels", () => {
  const found = gauges('# HELP a b\na 1.5\nb{state="running"} 2.0\nb{state="it } is"} 1e3\n\nnonsense\n');
  assert.deepEqual(found, { a: { "": 1.5 }, b: { 'state="running"': 2, 'state="it } is"': 1000 } });
});

test("server-sent events are read in pieces of any length", () => {
  const text = ': connected\n\nid: 7\nevent: container.booted\ndata: {"a":\ndata: 1}\n\n: keep-alive\r\n\r\nid: 8\r\ndata: x\r\n\r\n';
  const whole = [{ id: "7", event: "container.booted", data: '{"a":\n1}' }, { id: "8", data: "x" }];
  for (let length = 1; length <= text.length; length += 1) {
    const read = eventReader();
    const events = [];
    for (let from = 0; from < text.length; from += length) events.push(...read(text.slice(from, from + length)));
    assert.deepEqual(events, whole, `in pieces of ${length}`);
  }
});

test("the newest event is found without reading them all", async () => {
  for (const [oldest, newest] of [[0, 0], [1, 1], [1, 2], [1, 1024], [1, 1025], [1, 5000], [90_000, 99_999], [7, 7]]) {
    let asked = 0;
    const found = await newestId(async (after) => {
      asked += 1;
      if (!newest || after >= newest) return null;
      return Math.max(after + 1, oldest);
    });
    assert.equal(found, newest);
    assert.ok(asked < 40, `${asked} requests for ${oldest} to ${newest}`);
  }
});

test("events are kept once, in order, and so many", () => {
  const one = (id) => ({ id, kind: "container.failed", subject_id: "6594bbba", data: { error: { code: "disk-full" } } });
  assert.deepEqual(merged([one(1), one(2)], [one(2), one(4), one(3)], 3).map(({ id }) => id), [2, 3, 4]);
  const told = { boot_method: "warm", reason: null, seconds: 0.4, shape: [2, 768], stages: [{}], error: { code: "x" } };
  assert.equal(brief(told), "boot_method=warm seconds=0.4 shape=[2,768]");
  assert.ok(matches(one(1), "container. DISK-full"));
  assert.ok(matches(one(1), "  "));
  assert.ok(!matches(one(1), "container worker"));
});

test("what can be done is what the state allows, and what removes asks first", () => {
  const labels = (noun, state) => verbs(noun, state).map((one) => one.label);
  assert.deepEqual(labels("container", "exited"), ["Start", "Remove"]);
  assert.deepEqual(labels("container", "parked"), ["Wake", "Remove"]);
  assert.ok(!labels("engine", "stopped").includes("Stop"));
  assert.deepEqual(verbs("container", "unheard-of"), []);
  for (const noun of ["container", "engine", "worker"]) {
    // Of each state in the model something is known, which `WARMBOOT_STATES` lists.
    const known = JSON.parse(process.env.WARMBOOT_STATES ?? "{}")[noun];
    if (known) assert.deepEqual(states(noun).sort(), known.sort());
    for (const state of states(noun)) {
      for (const one of verbs(noun, state)) assert.equal(Boolean(one.asks), one.method === "DELETE");
    }
  }
});

test("output is kept in lines, whatever pieces it comes in, and so many of them", () => {
  const kept = (pieces, most = 100) => pieces.reduce((keeper, piece) => (keeper.add(piece), keeper), lineKeeper(most));
  assert.deepEqual(kept(["a", "b\nc", "\n", "d"]).lines, ["ab", "c", "d"]);
  assert.deepEqual(kept(["a\r", "\nb\r\n"]).lines, ["a", "b"]);
  assert.deepEqual(kept(["10 %\r20 %\r30 %\n"]).lines, ["30 %"]);
  assert.deepEqual(kept([...Array.from({ length: 1000 }, (_, index) => `\r${index} of 1000 are done`), "\n"]).lines, ["999 of 1000 are done"]);
  assert.deepEqual(kept(["\x1b[1;3", "1mred\x1b[0m \x00\x07\ufffd\ttab\n"]).lines, ["red \ufffd\ttab"]);
  assert.deepEqual(kept(["a\n\nb\n"]).lines, ["a", "", "b"]);
  assert.equal(kept(["x".repeat(100_000)]).lines[0].length, 4097);
  const many = kept(Array.from({ length: 1000 }, (_, index) => `${index}\n`));
  assert.ok(many.lines.length <= 110 && many.lines.length >= 100);
  assert.deepEqual([many.lines.at(-1), many.dropped + many.lines.length], ["999", 1000]);
  const long = lineKeeper(1000, 100_000);
  for (let index = 0; index < 500; index += 1) long.add(`${index} ${"x".repeat(10_000)}\n`);
  assert.ok(long.lines.length >= 9 && long.lines.length <= 11, `${long.lines.length}`);
  assert.deepEqual([long.lines.at(-1).slice(0, 4), long.dropped + long.lines.length], ["499 ", 500]);
});

test("only rows in sight are drawn", () => {
  assert.deepEqual(seen(100_000, 18, 900_000, 360, 10), { first: 49_990, last: 50_030 });
  assert.deepEqual(seen(3, 18, 0, 360), { first: 0, last: 3 });
  assert.deepEqual(seen(0, 18, 0, 360), { first: 0, last: 0 });
});

test("what is asked for often comes to its end, and once more after that", async () => {
  const begun = [];
  let tell = () => {};
  const next = () => new Promise((resolve) => (tell = resolve));
  const work = (stop) => new Promise((done) => {
    begun.push({ stop, done });
    stop.addEventListener("abort", () => done());
    tell();
  });
  const { ask, anew, end } = repeated(work, 0);
  const finish = async (afterMs) => {
    const second = next();
    begun.at(-1).done(afterMs);
    await second;
  };
  let first = next();
  for (let times = 0; times < 3; times += 1) ask();
  await first;
  for (let times = 0; times < 3; times += 1) ask();
  assert.deepEqual([begun.length, begun[0].stop.aborted], [1, false]);
  await finish();
  assert.equal(begun.length, 2);
  await finish(1); // it is to be tried again
  assert.equal(begun.length, 3);
  first = next();
  anew();
  await first;
  assert.deepEqual([begun.length, begun[2].stop.aborted, begun[3].stop.aborted], [4, true, false]);
  end();
  assert.ok(begun[3].stop.aborted);
  ask();
  anew();
  assert.equal(begun.length, 4);
});
