/* Prometheus' text format, as far as this page needs it. Pure, and tested with node. */

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;

/** `{metric: {labels: value}}`; the labels are as they are written, `""` where there are none. */
export function gauges(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (match) (found[match[1]] ??= {})[match[2] ?? ""] = Number(match[3]);
  }
  return found;
}
