// Not a module: it runs before the first paint, so that a page that was set dark is never white.
(() => {
  const KEY = "sagabox-theme";
  const root = document.documentElement;

  /** "light", "dark", or "" for what the system says. */
  function chosen() {
    try {
      const kept = localStorage.getItem(KEY);
      return kept === "light" || kept === "dark" ? kept : "";
    } catch {
      return "";
    }
  }

  function apply(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  apply(chosen());
  globalThis.sagaboxTheme = {
    chosen,
    choose(theme) {
      apply(theme);
      try {
        if (theme) localStorage.setItem(KEY, theme);
        else localStorage.removeItem(KEY);
      } catch {
        // It holds until the page is closed.
      }
    },
  };
})();
