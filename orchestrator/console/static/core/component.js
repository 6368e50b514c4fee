// Components that redraw themselves when a signal changes that they read while drawing.
import { Component, effect, h, htm } from "./vendor.js";

export const html = htm.bind(h);

/**
 * `setup(props, cleanup)` runs once, when the component appears, and returns the function that draws
 * it from its present properties. What is handed to `cleanup` is called when it disappears.
 */
export function component(setup) {
  return class extends Component {
    constructor(props) {
      super(props);
      this.cleanups = [];
      this.view = setup(props, (undo) => this.cleanups.push(undo));
    }

    render(props) {
      this.stop?.();
      let drawing = true;
      let drawn;
      // The first run draws, and so finds the signals; the second is called by one of them.
      this.stop = effect(() => {
        if (!drawing) return void this.setState({});
        drawing = false;
        drawn = this.view(props);
      });
      return drawn;
    }

    componentWillUnmount() {
      this.stop?.();
      for (const undo of this.cleanups) undo();
    }
  };
}
