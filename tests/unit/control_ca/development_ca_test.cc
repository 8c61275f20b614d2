#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <set>
#include <thread>

#include "base/file.h"
#include "control/ca/issuer.h"
#include "unit/control_ca/keys.h"

namespace fairlead::ca {
namespace {

using ::testing::HasSubstr;
using namespace testing;

constexpr const char* kUri = "spiffe://cluster.local/ns/shop/sa/seller";
const SpiffeId kId{"cluster.local", "shop", "seller"};

class Ca : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = DevelopmentCa::open(directory_.path());
    ASSERT_TRUE(opened) << opened.error().text();
    ca_ = std::move(*opened);
  }
  Ptr<X509> issue(CsrShape shape = {}, std::chrono::seconds ttl = std::chrono::hours(1)) {
    const auto issued = ca_->sign(csr(std::move(shape)), kId, ttl);
    EXPECT_TRUE(issued) << issued.error().text();
    return issued ? certificate_of(issued->leaf_pem) : nullptr;
  }
  std::string refusal(CsrShape shape) { return refusal_of(csr(std::move(shape))); }
  std::string refusal_of(const std::string& pem) {
    const auto issued = ca_->sign(pem, kId, std::chrono::hours(1));
    if (issued) return {};
    EXPECT_EQ(issued.error().kind(), ErrorKind::kDenied);
    return issued.error().text();
  }

  TemporaryDirectory directory_;
  std::unique_ptr<DevelopmentCa> ca_;
};

long life_of(const X509* certificate) {
  int days = 0;
  int seconds = 0;
  ASN1_TIME_diff(&days, &seconds, X509_get0_notBefore(certificate), X509_get0_notAfter(certificate));
  return days * 86400L + seconds;
}

// ---- what is issued ----

TEST_F(Ca, LeafIsAnX509Svid) {
  const Ptr<X509> leaf = issue();
  ASSERT_NE(leaf, nullptr);
  int critical = 0;
  const Ptr<GENERAL_NAMES> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(leaf.get(), NID_subject_alt_name, &critical, nullptr)));
  ASSERT_NE(names, nullptr);
  EXPECT_EQ(critical, 1) << "the subject is empty";
  ASSERT_EQ(sk_GENERAL_NAME_num(names.get()), 1);
  const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), 0);
  ASSERT_EQ(name->type, GEN_URI);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.ia5))), kUri);
  EXPECT_EQ(X509_NAME_entry_count(X509_get_subject_name(leaf.get())), 0);
  EXPECT_EQ(X509_get_key_usage(leaf.get()), static_cast<uint32_t>(KU_DIGITAL_SIGNATURE));
  EXPECT_EQ(X509_get_extended_key_usage(leaf.get()), static_cast<uint32_t>(XKU_SSL_SERVER | XKU_SSL_CLIENT));
  EXPECT_EQ(X509_get_extension_flags(leaf.get()) & EXFLAG_CA, 0u);
  const int usage = X509_get_ext_by_NID(leaf.get(), NID_key_usage, -1);
  EXPECT_EQ(X509_EXTENSION_get_critical(X509_get_ext(leaf.get(), usage)), 1);
  EXPECT_LT(X509_cmp_current_time(X509_get0_notBefore(leaf.get())), 0)
      << "clocks differ: it begins in the past";
}

TEST_F(Ca, LeafVerifiesAgainstTheRootByStrictRules) {
  const Ptr<X509> leaf = issue();
  const Ptr<X509> root = certificate_of(ca_->roots_pem());
  ASSERT_NE(root, nullptr);
  X509_STORE* store = X509_STORE_new();
  X509_STORE_add_cert(store, root.get());
  X509_STORE_set_flags(store, X509_V_FLAG_X509_STRICT);
  for (const int purpose : {X509_PURPOSE_SSL_CLIENT, X509_PURPOSE_SSL_SERVER}) {
    X509_STORE_CTX* context = X509_STORE_CTX_new();
    X509_STORE_CTX_init(context, store, leaf.get(), nullptr);
    X509_STORE_CTX_set_purpose(context, purpose);
    EXPECT_EQ(X509_verify_cert(context), 1)
        << X509_verify_cert_error_string(X509_STORE_CTX_get_error(context));
    X509_STORE_CTX_free(context);
  }
  X509_STORE_free(store);
}

TEST_F(Ca, LifeIsClamped) {
  constexpr long kBackdate = 120;
  const std::tuple<const char*, std::chrono::seconds, long> cases[] = {
      {"what is asked for", std::chrono::seconds(7200), 7200},
      {"nothing is the default", std::chrono::seconds(0), 86400},
      {"less than nothing as well", std::chrono::seconds(-5), 86400},
      {"too short", std::chrono::seconds(1), 10},
      {"too long", std::chrono::seconds(1000000000), 86400},
      {"absurdly long", std::chrono::seconds::max(), 86400},
      {"absurdly short", std::chrono::seconds::min(), 86400},
  };
  for (const auto& [sentence, asked, expected] : cases) {
    EXPECT_NEAR(life_of(issue({}, asked).get()), expected + kBackdate, 2) << sentence;
  }
}

TEST_F(Ca, SerialsAreLongAndDiffer) {
  std::set<std::string> seen;
  for (int i = 0; i < 50; ++i) {
    const auto issued = ca_->sign(csr({}), kId, std::chrono::hours(1));
    ASSERT_TRUE(issued);
    EXPECT_EQ(issued->serial.size(), 32u) << "128 bits";
    EXPECT_TRUE(seen.insert(issued->serial).second);
  }
}

TEST_F(Ca, NothingOfTheRequestButTheKeyIsGranted) {
  CsrShape shape;
  shape.common_name = "admin";
  const Ptr<X509> leaf = issue(std::move(shape));
  ASSERT_NE(leaf, nullptr);
  EXPECT_EQ(X509_NAME_entry_count(X509_get_subject_name(leaf.get())), 0);
}

TEST_F(Ca, ServerCertificateHasItsNames) {
  const auto own = ca_->server_certificate({"fairlead-controller", "localhost"}, {"127.0.0.1", "fd00::1"});
  ASSERT_TRUE(own) << own.error().text();
  const Ptr<X509> leaf = certificate_of(own->chain_pem);
  ASSERT_NE(leaf, nullptr);
  EXPECT_EQ(X509_check_host(leaf.get(), "fairlead-controller", 0, 0, nullptr), 1);
  EXPECT_EQ(X509_check_host(leaf.get(), "elsewhere", 0, 0, nullptr), 0);
  EXPECT_EQ(X509_check_ip_asc(leaf.get(), "fd00::1", 0), 1);
  EXPECT_EQ(X509_check_private_key(leaf.get(), private_key_of(own->key_pem).get()), 1);
  const Ptr<X509> root = certificate_of(ca_->roots_pem());
  EXPECT_LE(ASN1_TIME_compare(X509_get0_notAfter(leaf.get()), X509_get0_notAfter(root.get())), 0)
      << "not beyond its signer";
}

// ---- requests ----

TEST_F(Ca, AcceptsSaneKeysWithAndWithoutTheName) {
  const auto with = [](Ptr<EVP_PKEY> key, std::vector<std::string> san) {
    CsrShape shape;
    shape.key = std::move(key);
    shape.san = std::move(san);
    return shape;
  };
  const std::string uri = std::string("URI:") + kUri;
  EXPECT_EQ(refusal(with(p256(), {})), "");
  EXPECT_EQ(refusal(with(p256(), {uri})), "");
  EXPECT_EQ(refusal(with(p256(), {"critical," + uri})), "") << "as ztunnel asks";
  EXPECT_EQ(refusal(with(Ptr<EVP_PKEY>(EVP_EC_gen("P-384")), {uri})), "");
  EXPECT_EQ(refusal(with(Ptr<EVP_PKEY>(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")), {uri})), "");
  EXPECT_EQ(refusal(with(Ptr<EVP_PKEY>(EVP_RSA_gen(2048)), {uri})), "");
}

TEST_F(Ca, RefusesOtherNames) {
  const std::string uri = std::string("URI:") + kUri;
  const std::pair<const char*, std::vector<std::string>> cases[] = {
      {"another identity", {"URI:spiffe://cluster.local/ns/shop/sa/owner"}},
      {"the identity and one more", {uri + ",URI:spiffe://cluster.local/ns/shop/sa/owner"}},
      {"the identity twice", {uri + "," + uri}},
      {"a prefix of the identity", {"URI:spiffe://cluster.local/ns/shop/sa/sell"}},
      {"the identity and more text", {uri + "/x"}},
      {"another case", {"URI:SPIFFE://cluster.local/ns/shop/sa/seller"}},
      {"a DNS name", {"DNS:shop.example"}},
      {"the identity and a DNS name", {uri + ",DNS:shop.example"}},
      {"an address", {"IP:10.0.0.1"}},
      {"a mail address", {"email:a@b.example"}},
      {"a second extension of names", {uri, "DNS:shop.example"}},
  };
  for (const auto& [sentence, san] : cases) {
    CsrShape shape;
    shape.san = san;
    EXPECT_THAT(refusal(std::move(shape)), HasSubstr("CSR: ")) << sentence;
  }
}

TEST_F(Ca, RefusesANameCutByANul) {
  CsrShape shape;
  const std::string bytes = std::string(kUri) + std::string("\0x", 2);
  // Encoded by hand: the textual form has no NUL.
  GENERAL_NAMES* names = sk_GENERAL_NAME_new_null();
  GENERAL_NAME* name = GENERAL_NAME_new();
  ASN1_IA5STRING* text = ASN1_IA5STRING_new();
  ASN1_STRING_set(text, bytes.data(), static_cast<int>(bytes.size()));
  GENERAL_NAME_set0_value(name, GEN_URI, text);
  sk_GENERAL_NAME_push(names, name);
  STACK_OF(X509_EXTENSION)* extensions = nullptr;
  X509V3_add1_i2d(&extensions, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT);
  const EVP_PKEY* key = shape.key.get();
  shape.spoil = [&](X509_REQ* request) {
    X509_REQ_add_extensions(request, extensions);
    X509_REQ_sign(request, const_cast<EVP_PKEY*>(key), EVP_sha256());
  };
  EXPECT_THAT(refusal(std::move(shape)), HasSubstr("another name"));
  GENERAL_NAMES_free(names);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
}

TEST_F(Ca, RefusesASecondRequestForExtensions) {
  CsrShape shape;
  shape.san = {std::string("URI:") + kUri};
  shape.extensions_twice = true;
  EXPECT_THAT(refusal(std::move(shape)), HasSubstr("more than once"));
}

TEST_F(Ca, RefusesWeakAndOddKeys) {
  const std::pair<const char*, std::function<Ptr<EVP_PKEY>()>> cases[] = {
      {"RSA of 1024 bits", [] { return Ptr<EVP_PKEY>(EVP_RSA_gen(1024)); }},
      {"P-224", [] { return Ptr<EVP_PKEY>(EVP_EC_gen("P-224")); }},
      {"a curve of Bitcoin", [] { return Ptr<EVP_PKEY>(EVP_EC_gen("secp256k1")); }},
  };
  for (const auto& [sentence, make] : cases) {
    CsrShape shape;
    shape.key = make();
    ASSERT_NE(shape.key, nullptr) << sentence;
    EXPECT_THAT(refusal(std::move(shape)), HasSubstr("key is none of")) << sentence;
  }
}

TEST_F(Ca, RefusesWhoDoesNotHaveTheKey) {
  CsrShape shape;
  const Ptr<EVP_PKEY> another = p256();
  shape.spoil = [&](X509_REQ* request) { X509_REQ_set_pubkey(request, another.get()); };
  EXPECT_THAT(refusal(std::move(shape)), HasSubstr("signature does not verify"));
}

TEST_F(Ca, RefusesWhatIsNoRequest) {
  const std::string good = csr({});
  EXPECT_THAT(refusal_of(""), HasSubstr("not a PKCS#10 request"));
  EXPECT_THAT(refusal_of("-----BEGIN CERTIFICATE REQUEST-----\n"), HasSubstr("not a PKCS#10 request"));
  EXPECT_THAT(refusal_of(ca_->roots_pem()), HasSubstr("not a PKCS#10 request"));
  EXPECT_THAT(refusal_of(good + std::string(kMaxCsrBytes, ' ')), HasSubstr("too large"));
  for (size_t length = 0; length + 30 < good.size(); length += 7) {
    EXPECT_NE(refusal_of(good.substr(0, length)), "") << "cut at " << length;
  }
}

TEST_F(Ca, DoesNotAskForThePassphraseOfARequest) {
  // With OpenSSL's default this would wait at the terminal.
  EXPECT_THAT(
      refusal_of("-----BEGIN CERTIFICATE REQUEST-----\nProc-Type: 4,ENCRYPTED\n"
                 "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAAAAAAAAAAAAAAAAAAAA==\n"
                 "-----END CERTIFICATE REQUEST-----\n"),
      HasSubstr("not a PKCS#10 request"));
}

// ---- state ----

TEST_F(Ca, KeyIsForItsOwnerOnly) {
  struct stat status{};
  ASSERT_EQ(::stat((directory_.path() + "/root-key.pem").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
  EXPECT_EQ(read_file(directory_.path() + "/root-cert.pem").value(), ca_->roots_pem());
}

TEST_F(Ca, RootIsUsedAgain) {
  const auto again = DevelopmentCa::open(directory_.path());
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_EQ((*again)->roots_pem(), ca_->roots_pem());
  const Ptr<X509> root = certificate_of(ca_->roots_pem());
  const auto issued = (*again)->sign(csr({}), kId, std::chrono::hours(1));
  ASSERT_TRUE(issued);
  EXPECT_EQ(X509_verify(certificate_of(issued->leaf_pem).get(), X509_get0_pubkey(root.get())), 1);
}

TEST_F(Ca, BrokenStateIsAnErrorAndIsNotReplaced) {
  const std::string key = directory_.path() + "/root-key.pem";
  ASSERT_TRUE(write_file_atomically(key, "nonsense", 0600));
  EXPECT_FALSE(DevelopmentCa::open(directory_.path()));
  EXPECT_EQ(read_file(key).value(), "nonsense");
  TemporaryDirectory other;
  ASSERT_TRUE(DevelopmentCa::open(other.path()));
  ASSERT_TRUE(write_file_atomically(key, read_file(other.path() + "/root-key.pem").value(), 0600));
  const auto mixed = DevelopmentCa::open(directory_.path());
  ASSERT_FALSE(mixed) << "the key is not that of the root";
  EXPECT_THAT(mixed.error().text(), HasSubstr("do not fit together"));
}

TEST(CaState, TwoThatStartAtOnceAgree) {
  TemporaryDirectory directory;
  std::array<std::string, 4> roots;
  std::vector<std::thread> threads;
  for (std::string& root : roots) {
    threads.emplace_back([&directory, &root] {
      const auto ca = DevelopmentCa::open(directory.path() + "/state");
      if (ca) root = (*ca)->roots_pem();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_NE(roots[0], "");
  for (const std::string& root : roots) EXPECT_EQ(root, roots[0]);
}

}  // namespace
}  // namespace fairlead::ca
