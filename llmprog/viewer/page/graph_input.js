// What hands do on the picture: dragging, wheel, pinch, clicks and keys, said as what they mean.

const CLICK_PX = 4;
const LINE_PX = 16;

/**
 * Listen to a canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {{pan: (dx: number, dy: number) => void, zoom: (factor: number, x: number, y: number) => void,
 *   click: (x: number, y: number) => void, doubleClick: (x: number, y: number) => void,
 *   hover: (x: number|null, y: number|null) => void, key: (key: string) => boolean}} on positions are in pixels of the
 *   canvas; `hover(null, null)` when the pointer leaves; `key` says whether it took the key
 */
export function listenToGraph(canvas, on) {
  const pointers = new Map();
  let moved = 0;
  const place = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button === 0) {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      moved = pointers.size > 1 ? Infinity : 0;
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (before === undefined) {
      on.hover(now.x, now.y);
      return;
    }
    moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (moved <= CLICK_PX) {
      return;
    }
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, now);
    on.hover(null, null);
    if (other === undefined) {
      on.pan(now.x - before.x, now.y - before.y);
    } else {
      const [past, present] = [distance(before, other), distance(now, other)];
      on.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
      on.zoom(present / Math.max(past, 1), (now.x + other.x) / 2, (now.y + other.y) / 2);
    }
  });
  const release = (event) => {
    if (pointers.delete(event.pointerId) && event.type === "pointerup" && moved <= CLICK_PX) {
      const { x, y } = place(event);
      on.click(x, y);
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => on.hover(null, null));
  canvas.addEventListener("dblclick", (event) => {
    const { x, y } = place(event);
    on.doubleClick(x, y);
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE_PX : 1);
      const { x, y } = place(event);
      // Pinching on a touch pad arrives as a wheel with the control key, in small steps.
      on.zoom(Math.exp(-Math.max(-240, Math.min(240, pixels)) * (event.ctrlKey ? 0.01 : 0.0018)), x, y);
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey && on.key(event.key)) {
      event.preventDefault();
    }
  });
}

function distance(one, other) {
  return Math.hypot(one.x - other.x, one.y - other.y);
}
