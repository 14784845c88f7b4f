/* Runtime images and their snapshots as a tree. Pure, and tested with node. */

const byVersion = (a, b) => b.version - a.version || b.created_at.localeCompare(a.created_at);

/** Images with the snapshots that are theirs, each with those that lie on it; one whose parent is not there
    is its image's own. */
export function tree(images, snapshots) {
  const there = new Set(snapshots.map((one) => one.id));
  const children = new Map();
  for (const one of snapshots) {
    const parent = there.has(one.parent_id) && one.parent_id !== one.id ? one.parent_id : one.runtime_image_id;
    children.set(parent, [...(children.get(parent) ?? []), one]);
  }
  const below = (id) =>
    (children.get(id) ?? []).sort(byVersion).map((one) => ({ snapshot: one, below: below(one.id) }));
  return images.map((image) => ({ image, below: below(image.id) }));
}

/** What a snapshot is called: `version 3`, `image redis:7`, `engine NAME`. */
export function snapshotTitle(one) {
  if (one.name) return `${one.depth} ${one.name}`;
  if (one.depth === "runtime") return `version ${one.version}`;
  const image = one.metadata?.image;
  return image ? `${one.depth} ${typeof image === "string" ? image : (image.name ?? "")}` : one.depth;
}
