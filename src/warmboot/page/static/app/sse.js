/* Server-sent events out of text that comes in any pieces. Pure, and tested with node. */

/** A reader: `read(text)` gives the events that are whole by now, each `{id, event, data}`. */
export function eventReader() {
  let rest = "";
  let fields = {};
  return function read(text) {
    rest += text;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (fields.data !== undefined) events.push(fields);
        fields = {};
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue; // a comment: the manager is there
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      fields[name] = name === "data" && fields.data !== undefined ? `${fields.data}\n${value}` : value;
    }
    return events;
  };
}
