// What controllers, users and the other half of the agent say.
#include "contract/hand_over.h"
#include "contract/keeper_proxy.h"
#include "contract/parcels.h"
#include "control/model/translate.h"
#include "control/source/source.h"
#include "fuzz/targets.h"
#include "policy/authz.h"
#include "state/snapshot_builder.h"

namespace fairlead::fuzz {

// A row of resources: one byte tells the kind, two the length.
void discovery(Bytes input) {
  state::SnapshotBuilder builder;
  for (int count = 0; input.size() >= 3 && count < 64; ++count) {
    const bool policy = (input[0] & 1) != 0;
    const std::string name = fmt::format("ns/{}", input[0] >> 1);
    const size_t size = std::min<size_t>(static_cast<size_t>(input[1]) << 8 | input[2], input.size() - 3);
    const Bytes body = input.subspan(3, size);
    input = input.subspan(3 + size);
    istio::workload::Address address;
    istio::security::Authorization authorization;
    const int length = static_cast<int>(body.size());
    if (policy && authorization.ParseFromArray(body.data(), length)) {
      (void)builder.set_policy(name, authorization);
    } else if (policy) {
      builder.deny_unreadable_policy(name);
    } else if (address.ParseFromArray(body.data(), length)) {
      (void)builder.set_address(name, address);
    }
  }
  const state::SnapshotPtr snapshot = builder.build();
  for (const auto& workload : snapshot->workloads()) {
    policy::ConnectionFacts facts{&workload->identity, {}, {}, 80};
    if (!workload->addresses.empty()) facts.source_ip = facts.destination_ip = workload->addresses.front();
    const policy::Decision decision = policy::evaluate(workload->policies, facts);
    promise(!decision.reason.empty(), "a decision has its reason");
    for (const auto& bound : workload->policies) promise(bound.policy != nullptr, "policies are bound");
  }
  (void)snapshot->destinations();
}

void manifests(Bytes input) {
  model::ObjectSet objects;
  std::string errors;
  source::read_manifests("input.yaml", std::string(text_of(input)), objects, errors);
  (void)model::validate(objects, {});
  const model::Mesh mesh = model::translate(objects, {});
  if (!errors.empty()) return;  // the source refuses the whole set
  for (const auto& [name, policy] : mesh.policies) promise(!policy.name().empty(), "a policy has its name");
}

void contract(Bytes input) {
  const auto message = fairlead::contract::decode(input);
  if (!message) return;
  Buffer out;
  fairlead::contract::encode(*message, out);
  promise(std::equal(input.begin(), input.end(), out.span().begin(), out.span().end()),
          "a message has one spelling");
}

void handover(Bytes input) {
  namespace protocol = fairlead::contract::hand_over;
  const auto message = protocol::decode(input);
  if (!message) return;
  Buffer out;
  protocol::encode(*message, out);
  // What a later version appends to its question is not ours to repeat.
  const auto* ask = std::get_if<protocol::Ask>(&*message);
  const bool later = ask != nullptr && ask->newest > protocol::kNewest;
  promise(later ? out.size() <= input.size() : out.size() == input.size(), "a message has one length");
  promise(std::equal(out.span().begin(), out.span().end(), input.begin()), "a message has one spelling");
}

void parcels(Bytes input) {
  namespace protocol = fairlead::contract::parcels;
  const auto message = protocol::decode(input);
  if (!message) return;
  Buffer out;
  protocol::encode(*message, out);
  promise(std::equal(input.begin(), input.end(), out.span().begin(), out.span().end()),
          "a message has one spelling");
}

}  // namespace fairlead::fuzz
