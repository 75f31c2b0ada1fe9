"""Both curves of losses as an SVG."""

WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 220, 48, 28, 44
COLOURS = {"PyTorch": "#d9822b", "sd3pipe": "#2b6cb0"}


def smoothed(losses, weight=0.9):
    """Exponentially, without the pull of the first value."""
    value, total, made = 0.0, 0.0, []
    for loss in losses:
        value, total = weight * value + (1 - weight) * loss, weight * total + 1 - weight
        made.append(value / total)
    return made


def svg(rows):
    height = len(rows) * (HEIGHT + GAP) + TOP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for index, (method, (ours, theirs)) in enumerate(rows.items()):
        parts += panel(method, {"PyTorch": smoothed(theirs), "sd3pipe": smoothed(ours)}, TOP + index * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>", ""])


def panel(method, curves, top):
    values = [value for curve in curves.values() for value in curve]
    low, high = min(values), max(values)

    def y(value):
        return top + HEIGHT * (1 - (value - low) / (high - low or 1))

    parts = [f'<text x="{LEFT}" y="{top - 8}">{method}: loss, smoothed over ten steps</text>']
    for value in (low, high):
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    parts.append(f'<path d="M{LEFT} {top}V{top + HEIGHT}H{WIDTH - 12}" fill="none" stroke="#888"/>')
    for place, (name, curve) in enumerate(curves.items()):
        scale = (WIDTH - 12 - LEFT) / max(len(curve) - 1, 1)
        points = " ".join(f"{LEFT + step * scale:.1f},{y(value):.1f}" for step, value in enumerate(curve))
        # The reference broad and below, ours thin and above it.
        width = 5 - 3.5 * place
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="{width}"/>')
        parts.append(f'<text x="{WIDTH - 150 + 75 * place}" y="{top - 8}" fill="{COLOURS[name]}">{name}</text>')
    parts.append(f'<text x="{WIDTH - 12}" y="{top + HEIGHT + 16}" text-anchor="end">{len(curve)} steps</text>')
    return parts
