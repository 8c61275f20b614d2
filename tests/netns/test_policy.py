"""Who is let in: PeerAuthentication and AuthorizationPolicy as users write them, live."""
import contextlib
import json
import subprocess

import pytest

from bed import LabError, binary, eventually, is_refused, mesh

TARGET, PORT = "back/api-1", 8080


def peer_authentication(mode, name="mode", namespace="back", selector=None, ports=None):
    text = f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  mtls: {{mode: {mode}}}
"""
    if selector:
        text += f"  selector: {{matchLabels: {selector}}}\n"
    if ports:
        text += f"  portLevelMtls: {ports}\n"
    return text


def authorization(action, rules, name="rules", namespace="back", selector='{app: api, number: "1"}', targets=None, dry_run=None):
    where = f"  targetRefs: {targets}" if targets else f"  selector: {{matchLabels: {selector}}}" if selector else ""
    annotations = f', annotations: {{istio.io/dry-run: "{dry_run}"}}' if dry_run else ""
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}{annotations}}}
spec:
  action: {action}
{where}
  rules: {rules}
"""


MODE, RULES = "PeerAuthentication/back/mode", "AuthorizationPolicy/back/rules"
WEB = "cluster.local/ns/front/sa/web"


def reaches(bed, source, target=TARGET, port=PORT):
    """True, False, or an assertion for anything but an answer and a refusal."""
    answer = bed.call(source, "who", seconds=20, to=[bed.ip(target), port])
    if "pod" in answer:
        assert answer["pod"] == target.split("/")[1]
        return True
    assert is_refused(answer) and answer["failed"] != "TimeoutError", answer
    return False


def command(bed, node, *words):
    """The CLI: exit status and what it printed."""
    done = subprocess.run([binary("fairlead"), "--run-dir", bed.names.run_directory(node), *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def listed(bed, name, node="node2"):
    """One row of `fairlead policy list`; empty where there is none."""
    status, rows, errors = command(bed, node, "-o", "json", "policy", "list")
    assert status == 0, errors
    return next((row for row in json.loads(rows) if f"{row['namespace']}/{row['name']}" == name), {})


def problems(bed):
    return mesh.controller_status(bed.names)["problems"]


# Who asks, as `authz check` is told it.
ASKERS = {"front/web": "front/web", "front/other": "front/other", "outside/client": "plaintext"}


def foretold(bed, source, target=TARGET, port=PORT):
    """The same question to `fairlead authz check`, on both nodes; its exit status and its rows agree."""
    verdicts = set()
    asker = f"{ASKERS[source]}@{bed.ip(source)}"
    for node in ("node1", "node2"):
        status, rows, errors = command(bed, node, "-o", "json", "authz", "check", "--from", asker, "--to", f"pod/{target}", "--port", str(port))
        rows = json.loads(rows) if rows else errors
        assert status in (0, 1) and len(rows) == 1, (status, rows)
        assert rows[0]["allowed"] == (status == 0)
        verdicts.add(rows[0]["allowed"])
    assert len(verdicts) == 1, f"the nodes do not agree about {asker}"
    return verdicts.pop()


def settles(bed, wanted, **where):
    """The change is on its way when apply() returns; once it is there it stays."""
    def now():
        return {source: reaches(bed, source, **where) for source in wanted}
    eventually(lambda: now() == wanted, 10, f"it should become {wanted}, it is {now()}")
    assert now() == wanted
    # What the command foretells is what happens.
    for source in wanted.keys() & ASKERS.keys():
        eventually(lambda: foretold(bed, source, **where) == wanted[source], 5, f"`authz check` is wrong about {source}")


EVERYBODY = {"front/web": True, "front/other": True, "outside/client": True}


@pytest.fixture(autouse=True)
def open_again(bed):
    yield
    settles(bed, EVERYBODY)


# ---- plaintext -------------------------------------------------------------------------------------------------------------


def test_strict_refuses_plaintext_and_permissive_takes_it(bed):
    with bed.applied(peer_authentication("STRICT"), MODE):
        settles(bed, {"front/web": True, "front/other": True, "outside/client": False, "back/optout": False})
        bed.apply(peer_authentication("PERMISSIVE"))
        settles(bed, {**EVERYBODY, "back/optout": True})


@pytest.mark.parametrize("family", ["4", "6"])
def test_strict_holds_for_both_families_and_15008(bed, family):
    with bed.applied(peer_authentication("STRICT"), MODE):
        settles(bed, {"outside/client": False})
        for pod in (TARGET, "back/hbone"):
            assert is_refused(bed.call("outside/client", "who", to=[bed.ip(pod, family), PORT]))
            assert bed.call("front/web", "who", to=[bed.ip(pod, family), PORT])["pod"] == pod.split("/")[1]


def test_strict_for_the_mesh(bed):
    with bed.applied(peer_authentication("STRICT", namespace="istio-system"), "PeerAuthentication/istio-system/mode"):
        settles(bed, {"front/web": True, "outside/client": False})
        assert not reaches(bed, "outside/client", target="front/web")


def test_workload_overrides_namespace(bed):
    own = peer_authentication("PERMISSIVE", name="own", selector='{app: api, number: "1"}')
    with bed.applied(peer_authentication("STRICT") + "---" + own, MODE, "PeerAuthentication/back/own"):
        settles(bed, {"outside/client": True})
        settles(bed, {"outside/client": False, "front/web": True}, target="back/api-2")


def test_port_level_mode(bed):
    manifest = peer_authentication("STRICT", selector='{app: api, number: "1"}', ports="{7000: {mode: PERMISSIVE}}")
    with bed.applied(manifest, MODE):
        settles(bed, {"outside/client": False, "front/web": True})
        settles(bed, {"outside/client": True, "front/web": True}, port=7000)


def test_strict_port_of_a_permissive_pod(bed):
    manifest = peer_authentication("PERMISSIVE", selector='{app: api, number: "1"}', ports="{7000: {mode: STRICT}, 8080: {mode: UNSET}}")
    with bed.applied(manifest, MODE):
        settles(bed, {"outside/client": False, "front/web": True}, port=7000)
        settles(bed, {"outside/client": True, "front/web": True})


def test_a_port_that_is_unset_or_disabled_inherits(bed):
    manifest = peer_authentication("STRICT", selector='{app: api, number: "1"}', ports="{7000: {mode: UNSET}, 8080: {mode: DISABLE}}")
    with bed.applied(manifest, MODE):
        settles(bed, {"outside/client": False, "front/web": True}, port=7000)
        settles(bed, {"outside/client": False, "front/web": True})
        assert any("portLevelMtls[8080]: DISABLE is ignored" in problem for problem in problems(bed)), problems(bed)


STRICT_MESH, STRICT_MESH_KEY = peer_authentication("STRICT", namespace="istio-system"), "PeerAuthentication/istio-system/mode"


@pytest.mark.parametrize("mode, open_to_plaintext", [("UNSET", False), ("DISABLE", False), ("PERMISSIVE", True), ("STRICT", False)])
def test_modes_of_a_namespace_under_a_strict_mesh(bed, mode, open_to_plaintext):
    with bed.applied(STRICT_MESH + "---" + peer_authentication(mode), STRICT_MESH_KEY, MODE):
        settles(bed, {"outside/client": open_to_plaintext, "front/web": True})
        assert any("DISABLE" in problem for problem in problems(bed)) == (mode == "DISABLE")


@pytest.mark.parametrize("mode, open_to_plaintext", [("UNSET", False), ("DISABLE", False), ("PERMISSIVE", True)])
def test_modes_of_a_workload_under_a_strict_namespace(bed, mode, open_to_plaintext):
    own = peer_authentication(mode, name="own", selector='{app: api, number: "1"}')
    with bed.applied(peer_authentication("STRICT") + "---" + own, MODE, "PeerAuthentication/back/own"):
        settles(bed, {"outside/client": open_to_plaintext, "front/web": True})
        settles(bed, {"outside/client": False}, target="back/api-2")


def test_disable_and_unset_alone_are_permissive(bed):
    for mode in ("DISABLE", "UNSET"):
        with bed.applied(peer_authentication(mode), MODE):
            settles(bed, EVERYBODY)


def test_the_oldest_of_two_wins_and_the_other_is_reported(bed):
    old = peer_authentication("STRICT", name="zz").replace("namespace:", 'creationTimestamp: "2026-01-01T00:00:00Z", namespace:')
    young = peer_authentication("PERMISSIVE", name="aa").replace("namespace:", 'creationTimestamp: "2026-01-02T00:00:00Z", namespace:')
    with bed.applied(old + "---" + young, "PeerAuthentication/back/zz", "PeerAuthentication/back/aa"):
        settles(bed, {"outside/client": False, "front/web": True})
        assert any("PeerAuthentication back/aa: zz is older" in problem for problem in problems(bed)), problems(bed)


def test_probes_from_the_node_reach_the_application_untouched(bed):
    with bed.applied(peer_authentication("STRICT") + "---" + authorization("ALLOW", "[]"), MODE, RULES):
        settles(bed, {"outside/client": False, "front/web": False})
        before = bed.counters("node2")["inbound_accepted"]
        for family in "46":
            answer = bed.from_node("node2", "who", to=[bed.ip(TARGET, family), PORT])
            assert answer.get("pod") == "api-1" and answer["peer"] == answer["sees_self"], answer
        assert bed.counters("node2")["inbound_accepted"] == before
        # Another node is no node of this pod's: it is a stranger.
        assert is_refused(bed.from_node("node1", "who", to=[bed.ip(TARGET), PORT]))
        assert is_refused(bed.from_node("hub", "who", to=[bed.ip(TARGET), PORT]))


# ---- AuthorizationPolicy ------------------------------------------------------------------------------------------------------

ONLY_WEB = {"front/web": True, "front/other": False, "outside/client": False}
ALL_BUT_WEB = {"front/web": False, "front/other": True, "outside/client": True}
MESHED = {"front/web": True, "front/other": True, "outside/client": False}
ONLY_PLAIN = {"front/web": False, "front/other": False, "outside/client": True}
NOBODY = {"front/web": False, "front/other": False, "outside/client": False}
CASES = {
    "allow a principal": ("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]', ONLY_WEB),
    "allow by prefix": ("ALLOW", '[{from: [{source: {principals: ["cluster.local/ns/front/*"]}}]}]', {**EVERYBODY, "outside/client": False}),
    "allow by suffix": ("ALLOW", '[{from: [{source: {principals: ["*/sa/web"]}}]}]', ONLY_WEB),
    "allow any principal": ("ALLOW", '[{from: [{source: {principals: ["*"]}}]}]', {**EVERYBODY, "outside/client": False}),
    "allow a namespace": ("ALLOW", '[{from: [{source: {namespaces: [front]}}]}]', {**EVERYBODY, "outside/client": False}),
    "allow a service account": ("ALLOW", '[{from: [{source: {serviceAccounts: [front/web]}}]}]', ONLY_WEB),
    "allow nothing": ("ALLOW", "[]", NOBODY),
    "allow another": ("ALLOW", '[{from: [{source: {principals: ["cluster.local/ns/front/sa/nobody"]}}]}]', NOBODY),
    "allow the port": ("ALLOW", '[{to: [{operation: {ports: ["8080"]}}]}]', EVERYBODY),
    "allow another port": ("ALLOW", '[{to: [{operation: {ports: ["8081"]}}]}]', NOBODY),
    "allow principal on port": ("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}], to: [{{operation: {{ports: ["8080"]}}}}]}}]', ONLY_WEB),
    "allow an address range": ("ALLOW", '[{from: [{source: {ipBlocks: [10.244.1.0/24]}}]}]', EVERYBODY),
    "allow another range": ("ALLOW", '[{from: [{source: {ipBlocks: [10.244.9.0/24]}}]}]', NOBODY),
    "allow when": ("ALLOW", f'[{{when: [{{key: source.principal, values: ["{WEB}"]}}]}}]', ONLY_WEB),
    "allow by HTTP only": ("ALLOW", '[{to: [{operation: {methods: [GET]}}]}]', NOBODY),
    "deny a principal": ("DENY", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]', ALL_BUT_WEB),
    "deny all but a principal": ("DENY", f'[{{from: [{{source: {{notPrincipals: ["{WEB}"]}}}}]}}]', ONLY_WEB),
    "deny a namespace": ("DENY", '[{from: [{source: {namespaces: [front]}}]}]', {**NOBODY, "outside/client": True}),
    "deny the port": ("DENY", '[{to: [{operation: {ports: ["8080"]}}]}]', NOBODY),
    "deny another port": ("DENY", '[{to: [{operation: {ports: ["8081"]}}]}]', EVERYBODY),
    "deny by HTTP only denies more": ("DENY", '[{to: [{operation: {methods: [GET]}}]}]', NOBODY),
    "allow all but a principal": ("ALLOW", f'[{{from: [{{source: {{notPrincipals: ["{WEB}"]}}}}]}}]', ALL_BUT_WEB),
    "allow whoever shows nothing": ("ALLOW", '[{from: [{source: {notPrincipals: ["*"]}}]}]', ONLY_PLAIN),
    "allow a principal but not by suffix": ("ALLOW", '[{from: [{source: {principals: ["*"], notPrincipals: ["*/sa/other"]}}]}]', ONLY_WEB),
    "deny whoever shows nothing": ("DENY", '[{from: [{source: {notPrincipals: ["*"]}}]}]', MESHED),
    "allow not a namespace": ("ALLOW", '[{from: [{source: {notNamespaces: [front]}}]}]', ONLY_PLAIN),
    "deny all but a namespace": ("DENY", '[{from: [{source: {notNamespaces: ["fro*"]}}]}]', MESHED),
    "allow an account of the policy's namespace": ("ALLOW", '[{from: [{source: {serviceAccounts: [web]}}]}]', NOBODY),
    "allow all but an account": ("ALLOW", '[{from: [{source: {notServiceAccounts: [front/web]}}]}]', ALL_BUT_WEB),
    "deny a service account": ("DENY", '[{from: [{source: {serviceAccounts: [front/web]}}]}]', ALL_BUT_WEB),
    "allow a trust domain": ("ALLOW", '[{from: [{source: {trustDomains: [cluster.local]}}]}]', MESHED),
    "deny another trust domain": ("DENY", '[{from: [{source: {trustDomains: [example.org]}}]}]', EVERYBODY),
    "allow not an address": ("ALLOW", '[{from: [{source: {notIpBlocks: [WEB_V4]}}]}]', ALL_BUT_WEB),
    "deny an address": ("DENY", '[{from: [{source: {ipBlocks: [WEB_V4]}}]}]', ALL_BUT_WEB),
    "IPv6 says nothing of IPv4": ("ALLOW", '[{from: [{source: {ipBlocks: ["::/0"]}}]}]', NOBODY),
    "allow not a port": ("ALLOW", '[{to: [{operation: {notPorts: ["8080"]}}]}]', NOBODY),
    "allow not another port": ("ALLOW", '[{to: [{operation: {notPorts: ["7000"]}}]}]', EVERYBODY),
    "when: not a principal": ("ALLOW", f'[{{when: [{{key: source.principal, notValues: ["{WEB}"]}}]}}]', ALL_BUT_WEB),
    "when: a namespace": ("ALLOW", '[{when: [{key: source.namespace, values: ["*end", front]}]}]', MESHED),
    "when: not a namespace": ("DENY", '[{when: [{key: source.namespace, notValues: [front]}]}]', MESHED),
    "when: an account": ("ALLOW", '[{when: [{key: source.serviceAccount, values: [front/web]}]}]', ONLY_WEB),
    "when: not an account": ("DENY", '[{when: [{key: source.serviceAccount, notValues: [front/web]}]}]', ONLY_WEB),
    "when: a trust domain": ("ALLOW", '[{when: [{key: source.trustDomain, values: ["cluster.*"]}]}]', MESHED),
    "when: a source address": ("ALLOW", '[{when: [{key: source.ip, values: [WEB_V4]}]}]', ONLY_WEB),
    "when: not a source address": ("ALLOW", '[{when: [{key: source.ip, notValues: [WEB_V4]}]}]', ALL_BUT_WEB),
    "when: the destination's address": ("ALLOW", '[{when: [{key: destination.ip, values: [TARGET_V4]}]}]', EVERYBODY),
    "when: not the destination's address": ("ALLOW", '[{when: [{key: destination.ip, notValues: [TARGET_V4]}]}]', NOBODY),
    "when: the port": ("ALLOW", '[{when: [{key: destination.port, values: ["8080"]}]}]', EVERYBODY),
    "when: not the port": ("DENY", '[{when: [{key: destination.port, notValues: ["8080"]}]}]', EVERYBODY),
    "when: two conditions must hold": ("ALLOW", f'[{{when: [{{key: source.principal, values: ["{WEB}"]}}, {{key: destination.port, values: ["7000"]}}]}}]', NOBODY),
    "when: values but not notValues": ("ALLOW", f'[{{when: [{{key: source.principal, values: ["*"], notValues: ["{WEB}"]}}]}}]', {**NOBODY, "front/other": True}),
    "allow by HTTP or by identity": ("ALLOW", f'[{{to: [{{operation: {{paths: [/x]}}}}]}}, {{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]', ONLY_WEB),
    "allow an identity and HTTP": ("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}], to: [{{operation: {{paths: [/x]}}}}]}}]', NOBODY),
    "deny an identity and HTTP": ("DENY", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}], to: [{{operation: {{paths: [/x]}}}}]}}]', ALL_BUT_WEB),
    "deny by token": ("DENY", '[{from: [{source: {notRequestPrincipals: ["*"]}}]}]', NOBODY),
    "deny a client behind a proxy": ("DENY", '[{from: [{source: {remoteIpBlocks: [10.9.9.9]}}]}]', NOBODY),
    "deny a TLS server name on another port": ("DENY", '[{to: [{operation: {ports: ["7000"]}}], when: [{key: connection.sni, values: [a]}]}]', EVERYBODY),
    "custom denies what it would ask about": ("CUSTOM", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]', ALL_BUT_WEB),
    "audit decides nothing": ("AUDIT", "[{}]", EVERYBODY),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_authorization(bed, case):
    action, rules, wanted = CASES[case]
    rules = rules.replace("WEB_V4", bed.ip("front/web")).replace("TARGET_V4", bed.ip(TARGET))
    with bed.applied(authorization(action, rules), RULES):
        settles(bed, wanted)
        assert reaches(bed, "front/other", target="back/api-2"), "the selector selects everybody"


def test_deny_beats_allow(bed):
    deny = authorization("DENY", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]', name="deny")
    with bed.applied(authorization("ALLOW", "[{}]") + "---" + deny, RULES, "AuthorizationPolicy/back/deny"):
        settles(bed, ALL_BUT_WEB)


def test_refusal_names_its_policy(bed):
    with bed.applied(authorization("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]'), RULES):
        settles(bed, ONLY_WEB)
        decisions = bed.proxy("node2", "decisions")
        refused = next(d for d in decisions if not d["allowed"] and d["source"].startswith(bed.ip("front/other") + ":"))
        assert refused["principal"] == "cluster.local/ns/front/sa/other" and refused["pod"] == TARGET
        assert refused["reason"]
        allowed = next(d for d in decisions if d["allowed"] and d["principal"] == WEB)
        assert allowed["policy"] == "back/rules" and allowed["rule"] == 0


def test_policy_holds_for_a_pod_that_calls_itself(bed):
    """Over lo there is no tunnel; the pod's own identity is judged all the same."""
    with bed.applied(authorization("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]'), RULES):
        settles(bed, ONLY_WEB)
        assert is_refused(bed.call(TARGET, "who", to=["far.back", 80]))


def test_excluded_port_of_the_client_is_plaintext(bed):
    """What a pod excludes leaves without identity: STRICT refuses it although the pod is in the mesh."""
    with bed.applied(peer_authentication("STRICT"), MODE):
        settles(bed, {"outside/client": False})
        assert is_refused(bed.call("front/excluding", "who", to=[bed.ip(TARGET), 7000]))
        assert reaches(bed, "front/excluding")


# ---- configuration that is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ['[{from: [{source: {principels: [a]}}]}]', '{not: a list}', '[{to: [{operation: {ports: [http]}}]}]'],
                         ids=["unknown field", "wrong type", "port by name"])
def test_broken_policy_keeps_the_last_good_state(bed, rules):
    with bed.applied(authorization("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]'), RULES):
        settles(bed, ONLY_WEB)
        with pytest.raises(LabError) as error:
            bed.apply(authorization("ALLOW", rules))
        assert "AuthorizationPolicy_back_rules.yaml:" in str(error.value), "no file and line"
        settles(bed, ONLY_WEB)
        # And so it is for everything that comes with it, until the file is right again.
        bed.apply(authorization("DENY", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]'))
        settles(bed, ALL_BUT_WEB)


def test_removed_manifest_takes_its_policy_away(bed):
    bed.apply(peer_authentication("STRICT"))
    settles(bed, {"outside/client": False})
    bed.delete(MODE)
    settles(bed, {"outside/client": True})


# ---- address families ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("field, wanted", [("ipBlocks", {"front/web": True, "front/other": False}), ("notIpBlocks", {"front/web": False, "front/other": True})])
def test_addresses_of_both_families(bed, family, field, wanted):
    def reach(source):
        answer = bed.call(source, "who", to=[bed.ip(TARGET, family), PORT])
        assert "pod" in answer or is_refused(answer), answer
        return "pod" in answer
    rules = f'[{{from: [{{source: {{{field}: ["{bed.ip("front/web", "4")}", "{bed.ip("front/web", "6")}/128"]}}}}]}}]'
    with bed.applied(authorization("ALLOW", rules), RULES):
        eventually(lambda: {source: reach(source) for source in wanted} == wanted, 10, f"{field} of IPv{family}")
        for source, allowed in wanted.items():
            status, _, _ = command(bed, "node2", "authz", "check", "--from", f"{source}@{bed.ip(source, family)}", "--to", TARGET, "--port", str(PORT))
            assert status == (0 if allowed else 1)


# ---- whom a policy is for ----------------------------------------------------------------------------------------------------


def test_root_namespace_is_the_mesh(bed):
    """Without a selector for everybody, with one for those whom it selects, wherever they are."""
    key = "AuthorizationPolicy/istio-system/rules"
    deny_other = '[{from: [{source: {principals: ["*/sa/other"]}}]}]'
    wanted = {"front/web": True, "front/other": False, "outside/client": True}
    with bed.applied(authorization("DENY", deny_other, namespace="istio-system", selector=None), key):
        for target in (TARGET, "back/api-2", "back/hbone", "front/web"):
            settles(bed, {source: let for source, let in wanted.items() if source != target}, target=target)
    with bed.applied(authorization("DENY", deny_other, namespace="istio-system"), key):
        settles(bed, wanted)
        settles(bed, EVERYBODY, target="back/api-2")


def test_namespace_policy_is_for_its_namespace(bed):
    with bed.applied(authorization("ALLOW", "[]", selector=None), RULES):
        settles(bed, NOBODY)
        settles(bed, NOBODY, target="back/hbone")
        settles(bed, {"front/other": True, "outside/client": True}, target="front/web")


def test_policy_of_a_service_holds_on_its_ports(bed):
    """Service far: api-1 on 8080 and 7000 (and 9999); near: api-2 on 8080."""
    only_web = f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]'
    with bed.applied(authorization("ALLOW", only_web, targets="[{kind: Service, name: far}]"), RULES):
        settles(bed, ONLY_WEB)
        settles(bed, ONLY_WEB, port=7000)
        settles(bed, EVERYBODY, port=8084)
        settles(bed, EVERYBODY, target="back/api-2")
        assert "pod" in bed.call("front/web", "who", to=["far.back", 80])
        assert is_refused(bed.call("front/other", "who", to=["far.back", 80]))
        row = listed(bed, "back/rules")
        assert row["scope"] == "service" and row["services"] == ["back/far.back.svc.cluster.local"] and row["localWorkloads"] == 1
        assert row["notes"] == []
        status, table, _ = command(bed, "node2", "authz", "check", "--from", "front/other", "--to", "back/far", "--port", "80")
        assert status == 1 and "DENIED" in table and "of its Service" in table, table
        assert command(bed, "node1", "authz", "check", "--from", "front/web", "--to", "back/far", "--port", "80")[0] == 0


def test_policy_of_a_service_opens_nothing_that_the_workload_closes(bed):
    every = authorization("ALLOW", "[{}]", name="service", targets="[{kind: Service, name: far}]")
    with bed.applied(every + "---" + authorization("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]'), RULES, "AuthorizationPolicy/back/service"):
        settles(bed, ONLY_WEB)


def test_policy_of_a_gateway_is_taken_for_the_whole_namespace_and_reported(bed):
    gateway = "[{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]"
    with bed.applied(authorization("DENY", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]', targets=gateway), RULES):
        settles(bed, ALL_BUT_WEB)
        settles(bed, ALL_BUT_WEB, target="back/hbone")
        assert any("Gateway is not supported" in problem for problem in problems(bed)), problems(bed)
        assert any("Gateway is not supported" in note for note in listed(bed, "back/rules")["notes"])


# ---- what does not decide, and what is read otherwise ------------------------------------------------------------------------


def decided(bed, source, allowed):
    rows = bed.proxy("node2", "decisions")
    return next((row for row in rows if row["source"].startswith(bed.ip(source) + ":") and row["allowed"] == allowed), None)


def test_audit_marks_and_decides_nothing(bed):
    before = bed.counters("node2")["audit_matched"]
    with bed.applied(authorization("AUDIT", f'[{{to: [{{operation: {{ports: ["1"]}}}}]}}, {{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]'), RULES):
        eventually(lambda: listed(bed, "back/rules").get("action") == "AUDIT")
        settles(bed, EVERYBODY)
        eventually(lambda: reaches(bed, "front/web") and decided(bed, "front/web", True)["audits"] == [{"policy": "back/rules", "rule": 1}])
        reaches(bed, "front/other")
        assert decided(bed, "front/other", True)["audits"] == []
        assert bed.counters("node2")["audit_matched"] > before
        assert "marked by rule 1 of AUDIT policy back/rules" in command(bed, "node2", "why")[1]


@pytest.mark.parametrize("action", ["DENY", "ALLOW"])
def test_dry_run_tells_what_would_be(bed, action):
    field = "principals" if action == "DENY" else "notPrincipals"
    policy = authorization(action, f'[{{from: [{{source: {{{field}: ["{WEB}"]}}}}]}}]', dry_run="true")
    with bed.applied(policy, RULES):
        eventually(lambda: any(row["name"] == "rules" and row["dryRun"] for row in bed.proxy("node2", "policies")))
        settles(bed, EVERYBODY)
        eventually(lambda: reaches(bed, "front/web") and decided(bed, "front/web", True)["dryRun"])
        would_be = decided(bed, "front/web", True)["dryRun"]
        assert not would_be["allowed"] and would_be["policy"] == ("back/rules" if action == "DENY" else "")
        assert decided(bed, "front/other", True)["dryRun"]["allowed"]
        assert "with dry-run policies in force: DENIED" in command(bed, "node2", "why")[1]
        assert "yes" in command(bed, "node2", "policy", "list")[1]
        bed.apply(policy.replace('"true"', '"false"'))
        settles(bed, ALL_BUT_WEB)


def test_stricter_reading_is_reported(bed):
    """On the controller's status and beside the policy."""
    rules = f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}], to: [{{operation: {{methods: [GET]}}}}]}}]'
    for action, message, wanted in (("ALLOW", "the rule allows nothing", NOBODY), ("DENY", "denies more", ALL_BUT_WEB),
                                    ("CUSTOM", "CUSTOM is not supported", ALL_BUT_WEB), ("AUDIT", "marks more", EVERYBODY)):
        with bed.applied(authorization(action, rules), RULES):
            settles(bed, wanted)
            told = [problem for problem in problems(bed) if "back/rules" in problem]
            assert any(message in problem for problem in told), told
            assert any("rules[0].to[0].operation.methods" in problem for problem in told), told
            eventually(lambda: any(message in note for note in listed(bed, "back/rules")["notes"]))
            assert message in command(bed, "node2", "policy", "list")[1]


def test_services_are_listed(bed):
    status, rows, _ = command(bed, "node1", "-o", "json", "service", "list")
    far = next(row for row in json.loads(rows) if row["namespace"] == "back" and row["name"] == "far")
    assert status == 0 and far["hostname"] == "far.back.svc.cluster.local" and bed.ip("svc/back/far") in far["addresses"]
    assert [port["servicePort"] for port in far["ports"]] == [80, 99, 7000]
    assert [endpoint["workload"] for endpoint in far["endpoints"]] == ["back/api-1"]
    assert "back/far" in command(bed, "node1", "service", "list")[1]


def test_list_counts_the_pods_here(bed):
    with bed.applied(authorization("DENY", "[]", selector="{app: api}"), RULES):
        eventually(lambda: any(row["name"] == "rules" for row in bed.proxy("node1", "policies")))
        assert listed(bed, "back/rules", "node1")["localWorkloads"] == 1
        assert listed(bed, "back/rules", "node2")["localWorkloads"] == 1
        assert listed(bed, "back/rules")["rules"] == 0


def test_authz_check_says_what_it_cannot_answer(bed):
    """Neither 0 nor 1: those are verdicts."""
    for words in (["--to", "back/nobody", "--port", "80"], ["--to", "back/api", "--port", "81"], ["--to", "back/api", "--port", "0"],
                  ["--to", "api", "--port", "80"], ["--to", "back/api"], ["--to", b"back/\xff", "--port", "80"]):
        status, _, errors = command(bed, "node2", "authz", "check", "--from", "front/web", *words)
        assert status == 2 and "Try: fairlead" in errors, (words, errors)
    assert command(bed, "node2", "authz", "check", "--to", "back/api", "--port", "80")[0] == 2, "no source"
    assert command(bed, "nowhere", "authz", "check", "--from", "front/web", "--to", "back/api", "--port", "80")[0] == 3


# ---- connections that are open when a policy changes -----------------------------------------------------------------------


@contextlib.contextmanager
def open_connection(bed, source, target=TARGET, port=PORT):
    hand = bed.new_hand(source)
    try:
        hand.start("keep", to=[bed.ip(target), port])
        answer = hand.answer()
        assert "sees_peer" in answer, answer
        yield hand
    finally:
        hand.close()


def works(hand):
    hand.say("ping")
    answer = hand.answer()
    return answer == {"echo": "ping\n"}


@pytest.mark.sanitizers
@pytest.mark.parametrize("source, target", [("front/web", TARGET), ("front/web", "back/hbone"), ("outside/client", TARGET), (TARGET, TARGET)],
                         ids=["in place", "15008", "plaintext", "itself"])
def test_a_connection_that_is_no_longer_allowed_is_cut(bed, source, target):
    """DENY of its port; another connection to the same pod that is still allowed goes on."""
    deny = authorization("DENY", '[{to: [{operation: {ports: ["8080"]}}]}]').replace("  selector", "  # whole namespace, not selector")
    before = bed.counters()["cut_by_policy"]
    with open_connection(bed, source, target) as cut, open_connection(bed, source, target, 8084) as kept:
        assert works(cut) and works(kept)
        with bed.applied(deny, RULES):
            eventually(lambda: bed.counters()["cut_by_policy"] > before, 10, "the connection was not judged again")
            assert works(kept)
            cut.say("ping")
            assert is_refused(cut.answer()), "it lives on"


def test_strict_cuts_plaintext_that_is_open(bed):
    with open_connection(bed, "outside/client") as plain, open_connection(bed, "front/web") as meshed:
        assert works(plain) and works(meshed)
        with bed.applied(peer_authentication("STRICT"), MODE):
            eventually(lambda: not works(plain), 10, "plaintext lives on under STRICT")
            assert works(meshed)


def test_a_policy_of_a_service_cuts_what_it_forbids(bed):
    with open_connection(bed, "front/other") as cut, open_connection(bed, "front/other", port=8084) as kept:
        with bed.applied(authorization("ALLOW", f'[{{from: [{{source: {{principals: ["{WEB}"]}}}}]}}]', targets="[{kind: Service, name: far}]"), RULES):
            eventually(lambda: not works(cut), 10, "it lives on")
            assert works(kept), "the Service has no such port"


@pytest.mark.parametrize("action, dry_run", [("AUDIT", None), ("DENY", "true")])
def test_what_does_not_decide_cuts_nobody(bed, action, dry_run):
    before = bed.counters()["cut_by_policy"]
    with open_connection(bed, "front/web") as hand:
        with bed.applied(authorization(action, "[{}]", dry_run=dry_run), RULES):
            eventually(lambda: any(row["name"] == "rules" for row in bed.proxy("node2", "policies")))
            settles(bed, EVERYBODY)
            assert works(hand)
    assert bed.counters()["cut_by_policy"] == before


def test_a_change_that_concerns_others_cuts_nobody(bed):
    before = bed.counters()["cut_by_policy"]
    with open_connection(bed, "front/web") as hand:
        with bed.applied(authorization("DENY", "[{}]", selector='{app: nobody}'), RULES):
            settles(bed, {"front/web": True})
            assert works(hand)
    assert bed.counters()["cut_by_policy"] == before
