"""How results are shown: medians, tables, and bars."""
import statistics


UNITS = {"requests_per_s": "1/s", "p50_us": "µs", "p99_us": "µs", "gbit_per_s": "Gb/s", "cpu_us_per_op": "µs", "cpu_s_per_gb": "s",
         "pss_kib": "KiB", "pss_kib_per_connection": "KiB"}


def summarize(samples, first):
    """Also the median of the ratios to the first contender, repetition by repetition: what disturbed both of them alike is not in it."""
    found = {}
    for metric, values in samples.items():
        found[metric] = {"median": statistics.median(values), "min": min(values), "max": max(values), "unit": UNITS[metric]}
        base = first.get(metric, [])
        if base is not values and len(base) == len(values) and all(base):
            found[metric]["ratio"] = statistics.median(mine / theirs for mine, theirs in zip(values, base))
    return found


def print_table(results):
    for scenario, contenders in results.items():
        print(f"\n{scenario}")
        metrics = sorted({metric for values in contenders.values() for metric in values}, key=list(UNITS).index)
        print(f"  {'':10}" + "".join(f"{metric + ' ' + UNITS[metric]:>28}" for metric in metrics))
        for name, values in contenders.items():
            cells = []
            for metric in metrics:
                value = values.get(metric)
                ratio = f" ({value['ratio']:.2f})" if value and "ratio" in value else ""
                cells.append(f"{value['median']:.6g}{ratio}" if value else "-")
            print(f"  {name:10}" + "".join(f"{cell:>28}" for cell in cells))


def write_svg(results, path):
    """Bars of every scenario's main metric relative to direct (or to haproxy where direct has none)."""
    rows = []
    for scenario, contenders in results.items():
        metric = next((m for m in ("requests_per_s", "gbit_per_s", "pss_kib") if any(m in v for v in contenders.values())), None)
        base = max((v[metric]["median"] for v in contenders.values() if metric in v), default=0) if metric else 0
        rows += [(scenario, name, metric, v[metric]["median"] / base, v[metric]["median"]) for name, v in contenders.items() if base and metric in v]
    colours = {"direct": "#9aa5b1", "fairlead": "#0b7285", "haproxy": "#e8590c"}
    height = 24 * len(rows) + 20
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" font-family="sans-serif" font-size="12">']
    for i, (scenario, name, metric, share, value) in enumerate(rows):
        y = 10 + 24 * i
        parts.append(f'<text x="4" y="{y + 14}">{scenario}</text><text x="100" y="{y + 14}">{name}</text>'
                     f'<rect x="170" y="{y + 2}" width="{max(1, 420 * share):.0f}" height="16" fill="{colours.get(name, "#555")}"/>'
                     f'<text x="{178 + 420 * share:.0f}" y="{y + 14}">{value:.4g} {UNITS[metric]}</text>')
    with open(path, "w") as file:
        file.write("\n".join(parts) + "\n</svg>\n")
