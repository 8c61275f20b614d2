#include "control/ca/node_token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/hmac.h>
#include <sys/stat.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "unit/control_ca/keys.h"

namespace fairlead::ca {
namespace {

using ::testing::HasSubstr;
using namespace testing;
using nlohmann::json;

std::string base64url(const std::string& bytes) {
  std::string text(4 * (bytes.size() / 3 + 1) + 1, '\0');
  text.resize(static_cast<size_t>(EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                                  reinterpret_cast<const unsigned char*>(bytes.data()),
                                                  static_cast<int>(bytes.size()))));
  for (char& c : text) c = c == '+' ? '-' : c == '/' ? '_' : c;
  while (!text.empty() && text.back() == '=') text.pop_back();
  return text;
}

std::string es256(const std::string& text, EVP_PKEY* key) {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key);
  unsigned char der[128];
  size_t length = sizeof der;
  EVP_DigestSign(context, der, &length, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  EVP_MD_CTX_free(context);
  const unsigned char* at = der;
  ECDSA_SIG* signature = d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(length));
  std::string raw(64, '\0');
  BN_bn2binpad(ECDSA_SIG_get0_r(signature), reinterpret_cast<unsigned char*>(raw.data()), 32);
  BN_bn2binpad(ECDSA_SIG_get0_s(signature), reinterpret_cast<unsigned char*>(raw.data()) + 32, 32);
  ECDSA_SIG_free(signature);
  return raw;
}

class Tokens : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = NodeTokens::open(directory_.path());
    ASSERT_TRUE(opened) << opened.error().text();
    tokens_ = std::move(*opened);
    key_ = private_key_of(read_file(directory_.path() + "/token-key.pem").value());
    ASSERT_NE(key_, nullptr);
  }
  static json good_claims() {
    const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    return {{"iss", "fairlead-controller"},
            {"aud", {"istio-ca"}},
            {"sub", "system:serviceaccount:fairlead-system:fairlead-agent"},
            {"exp", now + 1000},
            {"kubernetes.io", {{"node", {{"name", "node1"}}}}}};
  }
  // Signed with the controller's own key: only the content can be wrong.
  std::string token(const json& claims, const json& header = {{"alg", "ES256"}}) {
    const std::string text = base64url(header.dump()) + "." + base64url(claims.dump());
    return text + "." + base64url(es256(text, key_.get()));
  }
  std::string refusal(const std::string& text) {
    const auto caller = tokens_->authenticate(text);
    if (caller) return {};
    EXPECT_EQ(caller.error().kind(), ErrorKind::kDenied);
    return caller.error().text();
  }

  TemporaryDirectory directory_;
  std::unique_ptr<NodeTokens> tokens_;
  Ptr<EVP_PKEY> key_;
};

TEST_F(Tokens, TellTheNode) {
  const auto issued = tokens_->issue("node1", std::chrono::hours(1));
  ASSERT_TRUE(issued) << issued.error().text();
  const auto caller = tokens_->authenticate(*issued);
  ASSERT_TRUE(caller) << caller.error().text();
  EXPECT_EQ(caller->node, "node1");
  EXPECT_EQ(caller->subject, "system:serviceaccount:fairlead-system:fairlead-agent");
  EXPECT_EQ(refusal(token(good_claims())), "") << "the forgeries below begin with a good one";
}

TEST_F(Tokens, AreNotMadeForNobodyOrForThePast) {
  EXPECT_FALSE(tokens_->issue("", std::chrono::hours(1)));
  EXPECT_FALSE(tokens_->issue(std::string(254, 'a'), std::chrono::hours(1)));
  EXPECT_FALSE(tokens_->issue("node1", std::chrono::seconds(0)));
}

TEST_F(Tokens, ClaimsMustBeRight) {
  const std::tuple<const char*, const char*, json, const char*> cases[] = {
      {"expired", "/exp", 1000, "expired"},
      {"without an end", "/exp", nullptr, "expired"},
      {"an end that is text", "/exp", "9999999999", "expired"},
      {"an end with a fraction", "/exp", 9999999999.5, "expired"},
      {"an end beyond all numbers", "/exp", UINT64_MAX, "expired"},
      {"for another audience", "/aud", {"vault"}, "audience"},
      {"for no audience", "/aud", nullptr, "audience"},
      {"an audience that is text", "/aud", "istio-ca", "audience"},
      {"of another issuer", "/iss", "kubernetes/serviceaccount", "issuer"},
      {"of no issuer", "/iss", nullptr, "issuer"},
      {"of another account", "/sub", "system:serviceaccount:shop:default", "not that of an agent"},
      {"without a node", "/kubernetes.io/node/name", "", "not that of an agent"},
      {"a node that is no text", "/kubernetes.io/node/name", 7, "not that of an agent"},
      {"without a place for a node", "/kubernetes.io", json::array({1}), "not that of an agent"},
  };
  for (const auto& [sentence, where, value, reason] : cases) {
    json claims = good_claims();
    claims[json::json_pointer(where)] = value;
    EXPECT_THAT(refusal(token(claims)), HasSubstr(reason)) << sentence;
  }
  EXPECT_THAT(refusal(token(json::array({1}))), HasSubstr("not a JSON object"));
}

TEST_F(Tokens, AlgorithmIsNotTheTokensToChoose) {
  for (const char* algorithm : {"none", "None", "HS256", "RS256", "ES384", "es256", ""}) {
    EXPECT_THAT(refusal(token(good_claims(), {{"alg", algorithm}})), HasSubstr("algorithm")) << algorithm;
  }
  EXPECT_THAT(refusal(token(good_claims(), json::object())), HasSubstr("algorithm"));
  const std::string unsigned_token =
      base64url(R"({"alg":"none"})") + "." + base64url(good_claims().dump()) + ".";
  EXPECT_NE(refusal(unsigned_token), "");
  // The classic: the public key as an HMAC secret.
  const Ptr<BIO> out(BIO_new(BIO_s_mem()));
  PEM_write_bio_PUBKEY(out.get(), key_.get());
  const std::string secret = text_of(out.get());
  const std::string text = base64url(R"({"alg":"HS256"})") + "." + base64url(good_claims().dump());
  unsigned char mac[32];
  unsigned length = 0;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, &length);
  EXPECT_NE(refusal(text + "." + base64url(std::string(reinterpret_cast<char*>(mac), length))), "");
}

TEST_F(Tokens, CriticalParametersAreNotIgnored) {
  EXPECT_THAT(refusal(token(good_claims(), {{"alg", "ES256"}, {"crit", {"b64"}}, {"b64", false}})),
              HasSubstr("critical"));
}

TEST_F(Tokens, AnyChangedCharacterSpoilsThem) {
  const std::string good = token(good_claims());
  for (size_t i = 0; i < good.size(); ++i) {
    std::string changed = good;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_NE(refusal(changed), "") << "character " << i;
  }
  EXPECT_NE(refusal(good + "A"), "");
  EXPECT_NE(refusal(good + "="), "");
  EXPECT_NE(refusal(good + "."), "");
}

TEST_F(Tokens, OfAnotherControllerAreWorthNothing) {
  TemporaryDirectory other;
  const auto foreign = (*NodeTokens::open(other.path()))->issue("node1", std::chrono::hours(1));
  ASSERT_TRUE(foreign);
  EXPECT_THAT(refusal(*foreign), HasSubstr("signature does not verify"));
}

TEST_F(Tokens, RubbishIsRefused) {
  const std::string good = token(good_claims());
  for (const std::string& text :
       {std::string(), std::string("."), std::string(".."), std::string("a.b.c"), std::string(3, '\0'),
        std::string("e30.e30."), good.substr(0, good.rfind('.')), std::string(kMaxToken + 1, 'A')}) {
    EXPECT_NE(refusal(text), "") << text.substr(0, 40);
  }
  for (size_t length = 0; length < good.size(); ++length)
    EXPECT_NE(refusal(good.substr(0, length)), "") << "cut at " << length;
  const std::string nested = base64url(std::string(5000, '['));
  EXPECT_NE(refusal(nested + "." + nested + "." + nested), "");
}

TEST_F(Tokens, KeyIsKeptAndForItsOwnerOnly) {
  struct stat status{};
  ASSERT_EQ(::stat((directory_.path() + "/token-key.pem").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
  const auto again = NodeTokens::open(directory_.path());
  ASSERT_TRUE(again);
  EXPECT_TRUE((*again)->authenticate(tokens_->issue("node1", std::chrono::hours(1)).value()));
}

}  // namespace
}  // namespace fairlead::ca
