#include "control/serve/published.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

namespace fairlead::serve {
namespace {

// Maps serialise in any order otherwise: equal content must give equal bytes, or every restart would push everything.
std::string deterministic_bytes(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

// FNV-1a, 64 bits: a version to compare, not a secret.
std::string hash_of(const std::string& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

template <class Messages>
void encode_all(std::string_view type, const Messages& messages, Published& published) {
  auto& resources = published.types[std::string(type)];
  for (const auto& [name, message] : messages) {
    auto any = std::make_shared<google::protobuf::Any>();
    any->set_type_url(std::string(type));
    any->set_value(deterministic_bytes(message));
    resources[name] = {hash_of(any->value()), any};
  }
}

}  // namespace

PublishedPtr encode(const model::Mesh& mesh) {
  auto published = std::make_shared<Published>();
  encode_all(kAddressType, mesh.addresses, *published);
  encode_all(kPolicyType, mesh.policies, *published);
  published->identities_by_node = mesh.identities_by_node;
  return published;
}

}  // namespace fairlead::serve
