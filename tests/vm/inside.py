#!/usr/bin/python3
"""What the tier `vm` runs inside a guest; the last line counts. A skip is a failure: the kernels were chosen to have it all."""
import os
import subprocess
import sys
import xml.etree.ElementTree as xml

HERE = os.path.dirname(os.path.realpath(__file__))
BUILD = os.environ["FAIRLEAD_BUILD"]
KERNEL_TLS = "6.12"  # the oldest kernel whose TLS an agent trusts
# Of the BPF tier: every program loads and is as small as ever, and one test of each hook.
QUICK_BPF = "Budget.*:Layout.*:Features.*:Capture.Ipv6:Capture.Mptcp:DatapathLife.CaptureOutlives*:DatapathLife.DetachLeavesNothing:" \
            "Endpoints.SynCookies:Inbound.AnyPort*:Inbound.WithoutListenerDropped:ServerNames.ClientIsShown*:Trace.OneConnection*"


def listed(series):
    """Tests of the list for this kernel, and those that are for another."""
    mine, others = [], []
    with open(os.path.join(HERE, "quick")) as file:
        for line in map(str.strip, file):
            if line and not line.startswith("#"):
                only, _, test = ("", "", line) if line.startswith("tests/") else line.partition(" ")
                (mine if only in ("", series) else others).append(test)
    return mine, others


def run(name, command, report):
    """Runs a program that reports in JUnit's form; returns what it passed, failed and skipped."""
    print(f"-- {name}", flush=True)
    status = subprocess.run(command).returncode
    try:
        cases = list(xml.parse(report).iter("testcase"))
    except (OSError, xml.ParseError):
        cases = []
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None or case.get("result") == "skipped" for case in cases)
    if (status != 0 and not failed) or not cases:
        failed += 1
    return len(cases) - failed - skipped if cases else 0, failed, skipped


def gtest(name, program, chosen="*"):
    report = f"/run/{name}.xml"
    return run(name, [os.path.join(BUILD, program), f"--gtest_filter={chosen}", "--gtest_brief=1", f"--gtest_output=xml:{report}"], report)


def pytest(arguments):
    report = "/run/netns.xml"
    return run("netns", ["/usr/bin/python3", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--durations=10", "--tb=short",
                         f"--junitxml={report}", *arguments], report)


def main(series, how):
    quick = how == "quick"
    mine, others = listed(series)
    results = [gtest("bpf", "tests/bpf/test_bpf", QUICK_BPF if quick else "*")]
    if series == KERNEL_TLS:
        results.append(gtest("kernel_tls", "tests/vm/test_kernel_tls"))
    if quick:
        results.append(pytest(mine))
    else:
        results.append(pytest(["tests/netns", "-m", "not long", *[word for test in others for word in ("--deselect", test)]]))
    passed, failed, skipped = (sum(column) for column in zip(*results))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or skipped else 0


sys.exit(main(*sys.argv[1:]))
