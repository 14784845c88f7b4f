/* Loads the page. Some browsers drop what is under way whenever this machine's networks change, as they do
   with each VM, and keep a module that was lost for lost: then all is loaded again. What came is kept. */
"use strict";

const TIMES = "warmboot-loaded-again";
const MOST = 10;
const LONGER_EACH_TIME_MS = 200;

function loadAgain(why) {
  let times = MOST + 1;
  try {
    times = Number(sessionStorage.getItem(TIMES) ?? 0) + 1;
    if (times > MOST) sessionStorage.removeItem(TIMES);
    else sessionStorage.setItem(TIMES, String(times));
  } catch {
    // The browser keeps nothing for this page, and the page needs that: `why` says so.
  }
  if (times > MOST) {
    document.getElementById("page").textContent = `The page could not be loaded (${why}). Reload it to try again.`;
    return;
  }
  setTimeout(() => location.reload(), times * LONGER_EACH_TIME_MS);
}

if (document.querySelector("link[rel=stylesheet]").sheet === null) {
  loadAgain("its style is missing");
} else {
  import("./app/main.js").then(
    () => sessionStorage.removeItem(TIMES),
    (error) => loadAgain(error.message),
  );
}
