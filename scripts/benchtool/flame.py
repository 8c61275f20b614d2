"""Flame graphs: stacks as perf tells them, folded, and drawn as an SVG that needs no script."""
import html
import re

WIDTH, ROW, LEAST = 1200, 17, 0.002  # narrower boxes are left out
COLOURS = {"user": "#f08c00", "library": "#fcc419", "kernel": "#4dabf7"}


class Box:
    def __init__(self, name, kind):
        self.name, self.kind, self.count, self.children = name, kind, 0, {}

    def child(self, name, kind):
        return self.children.setdefault((name, kind), Box(name, kind))


def plain(symbol):
    """A C++ symbol without what makes it long: arguments, template arguments, our namespace, offsets."""
    symbol = re.sub(r"\+0x[0-9a-f]+$", "", symbol).replace("(anonymous namespace)::", "").replace("non-virtual thunk to ", "")
    while (shorter := re.sub(r"<[^<>]*>", "", symbol)) != symbol:
        symbol = shorter
    resumed = " (resumed)" if re.search(r"\(\.(resume|destroy|cleanup)\)|\[clone \.(resume|destroy|cleanup)\]|\.(resume|destroy|cleanup)$", symbol) else ""
    symbol = symbol.split("(", 1)[0].replace("fairlead::", "").strip()
    return (symbol.rsplit(" ", 1)[-1] or "?") + resumed


def kind_of(place):
    if place.startswith("[") or place.endswith(".ko"):
        return "kernel"
    return "user" if "fairlead" in place else "library"


def frame_of(symbol, place):
    """A library without symbols (libcrypto's assembly) goes by its own name; what is nowhere is no frame."""
    if symbol != "[unknown]":
        return plain(symbol), kind_of(place)
    return (place.rsplit("/", 1)[-1], "library") if place.startswith("/") else None


def fold(script):
    """The output of `perf script -F comm,ip,sym,dso` as one tree."""
    root, stack, command = Box("all", "user"), [], None

    def take():
        if command is None or not stack:
            return
        box = root
        box.count += 1
        for name, kind in reversed(stack):
            box = box.child(name, kind)
            box.count += 1
    for line in script.splitlines():
        if not line.strip():
            take()
            stack, command = [], None
        elif not line[0].isspace():
            command = line.strip()
        else:
            found = re.match(r"\s*[0-9a-f]+ (.*) \(([^()]*)\)$", line)
            frame = found and frame_of(found[1], found[2])
            if frame and (not stack or stack[-1] != frame or frame[1] != "library"):
                stack.append(frame)
    take()
    return root


def depth(box, total):
    return 1 + max((depth(child, total) for child in box.children.values() if child.count >= LEAST * total), default=0)


def draw(root, title):
    total = root.count
    height = ROW * depth(root, total) + 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">',
             f'<text x="4" y="14" font-size="13">{html.escape(title)} – {total} samples; blue: kernel, yellow: libraries, orange: Fairlead</text>']

    def box(item, x, level):
        width, y = WIDTH * item.count / total, height - 10 - ROW * (level + 1)
        share = f"{html.escape(item.name)} {100 * item.count / total:.1f}%"
        label = html.escape(item.name[:max(0, int(width / 6.8))]) if width > 24 else ""
        parts.append(f'<g><title>{share}</title><rect x="{x:.1f}" y="{y}" width="{max(0.5, width - 0.5):.1f}" height="{ROW - 1}" fill="{COLOURS[item.kind]}"/>'
                     + (f'<text x="{x + 2:.1f}" y="{y + 12}">{label}</text>' if label else "") + "</g>")
        for child in sorted(item.children.values(), key=lambda one: (one.kind, one.name)):
            if child.count >= LEAST * total:
                box(child, x, level + 1)
            x += WIDTH * child.count / total
    box(root, 0, 0)
    return "\n".join(parts) + "\n</svg>\n"
