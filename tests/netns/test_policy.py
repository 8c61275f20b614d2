"""Who is let in: PeerAuthentication and AuthorizationPolicy as users write them, live."""
import contextlib

import pytest

from bed import LabError, eventually, is_refused, mesh

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


def authorization(action, rules, name="rules", namespace="back", selector='{app: api, number: "1"}'):
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  action: {action}
  selector: {{matchLabels: {selector}}}
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


def settles(bed, wanted, **where):
    """The change is on its way when apply() returns; once it is there it stays."""
    def now():
        return {source: reaches(bed, source, **where) for source in wanted}
    eventually(lambda: now() == wanted, 10, f"it should become {wanted}, it is {now()}")
    assert now() == wanted


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
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_authorization(bed, case):
    action, rules, wanted = CASES[case]
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


def test_unsupported_action_is_reported_and_changes_nothing(bed):
    with bed.applied(authorization("AUDIT", "[{}]"), RULES):
        problems = mesh.controller_status(bed.names)["problems"]
        assert any("AUDIT" in problem and "rules" in problem for problem in problems), problems
        settles(bed, EVERYBODY)


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


def test_a_change_that_concerns_others_cuts_nobody(bed):
    before = bed.counters()["cut_by_policy"]
    with open_connection(bed, "front/web") as hand:
        with bed.applied(authorization("DENY", "[{}]", selector='{app: nobody}'), RULES):
            settles(bed, {"front/web": True})
            assert works(hand)
    assert bed.counters()["cut_by_policy"] == before
