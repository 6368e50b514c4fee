// Work that is repeated while an operator looks.

/**
 * Do `work` now, and again so many milliseconds after each end of it, as long as the page is visible.
 * `now()` of what is returned does it at once, and `stop()` ends it.
 */
export function every(milliseconds, work) {
  let timer;
  let stopped = false;
  const turn = coalesced(async () => {
    clearTimeout(timer);
    if (stopped || document.hidden) return;
    try {
      await work();
    } finally {
      clearTimeout(timer);
      if (!stopped) timer = setTimeout(turn, milliseconds);
    }
  });
  const look = () => document.hidden || turn();
  document.addEventListener("visibilitychange", look);
  turn();
  return {
    now: turn,
    stop() {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", look);
    },
  };
}

/** `work`, never twice at once: a call while it runs makes it run once more afterwards. */
export function coalesced(work) {
  let running = null;
  let again = false;
  async function run() {
    try {
      do {
        again = false;
        await work();
      } while (again);
    } finally {
      running = null;
    }
  }
  return () => {
    if (running) again = true;
    else running = run();
    return running;
  };
}
