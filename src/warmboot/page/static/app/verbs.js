/* Which buttons a state has. The API decides; what it would refuse in any case is not offered. Pure, tested
   with node. Each: what it is called, what is told meanwhile, the way of the API, whether it asks first. */

const verb = (label, doing, path, more = {}) => ({ label, doing, path, method: "POST", ...more });

const START = verb("Start", "Starting", "start");
const STOP = verb("Stop", "Stopping", "stop");
const RESTART = verb("Restart", "Restarting", "restart");
const PAUSE = verb("Pause", "Pausing", "pause");
const UNPAUSE = verb("Unpause", "Unpausing", "unpause");
const PARK = verb("Park", "Parking", "park");
const WAKE = verb("Wake", "Waking", "wake");
const FORK = verb("Fork", "Forking", "fork", { body: { count: 1 } });
const REMOVE = verb("Remove", "Removing", "", { method: "DELETE", asks: "and all that is in it" });
const FORCE = { ...REMOVE, path: "?force=true", asks: "though it runs, and all that is in it" };

const CHECKPOINT = verb("Checkpoint", "Making a checkpoint of", "checkpoints");
const RESUME = verb("Resume", "Resuming", "resume");

const BY_STATE = {
  container: {
    created: [START, REMOVE],
    creating: [FORCE],
    running: [STOP, RESTART, PAUSE, PARK, FORK, FORCE],
    paused: [UNPAUSE, FORCE],
    parking: [FORCE],
    parked: [WAKE, FORCE],
    waking: [FORCE],
    exited: [START, REMOVE],
    failed: [START, REMOVE],
    deleting: [],
  },
  engine: {
    creating: [FORCE],
    running: [STOP, PAUSE, PARK, FORK, FORCE],
    paused: [UNPAUSE, STOP, FORCE],
    parking: [FORCE],
    parked: [WAKE, FORCE],
    waking: [FORCE],
    stopped: [START, REMOVE],
    failed: [START, REMOVE],
    deleting: [],
  },
  worker: {
    creating: [FORCE],
    running: [PAUSE, CHECKPOINT, FORCE],
    checkpointing: [FORCE],
    pausing: [FORCE],
    paused: [RESUME, REMOVE],
    resuming: [FORCE],
    exited: [REMOVE],
    failed: [REMOVE],
    deleting: [],
  },
};

/** All states that there are. */
export const states = (noun) => Object.keys(BY_STATE[noun]);

export const verbs = (noun, state) => BY_STATE[noun][state] ?? [];
