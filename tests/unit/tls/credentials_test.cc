// What may become an identity of ours, and the CSR that asks for one.
#include "tls/credentials.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "tls/key_memory.h"
#include "unit/tls/pair.h"

namespace fairlead::tls {
namespace {

class CredentialsTest : public ::testing::Test {
 protected:
  Authority root_ = Authority::root("root");
};

TEST_F(CredentialsTest, CsrCarriesTheIdentityAloneAndCritical) {
  auto key = KeyPair::generate();
  ASSERT_TRUE(key);
  auto pem = key->csr_pem(id_of(kClientUri));
  ASSERT_TRUE(pem) << pem.error().text();
  BIO* bio = BIO_new_mem_buf(pem->data(), static_cast<int>(pem->size()));
  X509_REQ* request = PEM_read_bio_X509_REQ(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(X509_REQ_verify(request, X509_REQ_get0_pubkey(request)), 1);
  EXPECT_EQ(X509_NAME_entry_count(X509_REQ_get_subject_name(request)), 0);
  STACK_OF(X509_EXTENSION)* extensions = X509_REQ_get_extensions(request);
  EXPECT_EQ(sk_X509_EXTENSION_num(extensions), 1);
  int critical = 0;
  auto* names =
      static_cast<GENERAL_NAMES*>(X509V3_get_d2i(extensions, NID_subject_alt_name, &critical, nullptr));
  EXPECT_EQ(critical, 1);
  ASSERT_EQ(sk_GENERAL_NAME_num(names), 1);
  const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, 0);
  ASSERT_EQ(name->type, GEN_URI);
  const ASN1_STRING* text = name->d.uniformResourceIdentifier;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)), ASN1_STRING_length(text)),
            kClientUri);
  GENERAL_NAMES_free(names);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  X509_REQ_free(request);
}

TEST_F(CredentialsTest, CsrRefusesAnIdentityThatIsNone) {
  auto key = KeyPair::generate();
  ASSERT_TRUE(key);
  EXPECT_FALSE(key->csr_pem({"cluster.local", "shop", "front,DNS:evil"}));
  EXPECT_FALSE(key->csr_pem({"", "shop", "front"}));
}

TEST_F(CredentialsTest, RoundTripFromCsrToCredentials) {
  auto key = KeyPair::generate();
  ASSERT_TRUE(key);
  const std::string certificate = root_.sign(*key->csr_pem(id_of(kClientUri)), workload(kClientUri));
  auto made = Credentials::create(std::move(*key), {certificate}, root_.certificate_pem(), id_of(kClientUri));
  ASSERT_TRUE(made) << made.error().text();
  EXPECT_EQ((*made)->id(), id_of(kClientUri));
  EXPECT_FALSE((*made)->serial().empty());
  const auto now = std::chrono::system_clock::now();
  EXPECT_LT((*made)->not_before(), now);
  EXPECT_NEAR(std::chrono::duration<double>((*made)->not_after() - now).count(), 3600, 60);
}

TEST_F(CredentialsTest, RefusesAnotherKey) {
  Issued issued = root_.issue(workload(kClientUri));
  issued.key_pem = root_.issue(workload(kClientUri)).key_pem;
  EXPECT_FALSE(try_credentials(issued, root_.certificate_pem(), kClientUri));
}

TEST_F(CredentialsTest, RefusesAnotherIdentity) {
  const auto made = try_credentials(root_.issue(workload(kServerUri)), root_.certificate_pem(), kClientUri);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().text().find(kServerUri), std::string::npos);
}

TEST_F(CredentialsTest, RefusesAChainThatDoesNotReachTheRoots) {
  const Issued issued = root_.issue(workload(kClientUri));
  EXPECT_FALSE(try_credentials(issued, Authority::root("root").certificate_pem(), kClientUri));
  const Authority middle = root_.intermediate("middle");
  const Issued below = middle.issue(workload(kClientUri));
  EXPECT_FALSE(try_credentials(below, root_.certificate_pem(), kClientUri)) << "intermediate missing";
  EXPECT_TRUE(try_credentials(below, root_.certificate_pem(), kClientUri, {middle.certificate_pem()}));
  EXPECT_TRUE(try_credentials(below, middle.certificate_pem(), kClientUri))
      << "an intermediate may be the anchor";
}

TEST_F(CredentialsTest, RefusesWhatPeersWouldRefuse) {
  CertificateShape expired = workload(kClientUri);
  expired.starts_in = std::chrono::hours(-2);
  expired.ends_in = std::chrono::seconds(-1);
  EXPECT_FALSE(try_credentials(root_.issue(expired), root_.certificate_pem(), kClientUri));
  CertificateShape one_way = workload(kClientUri);
  one_way.extended_key_usage = "clientAuth";
  EXPECT_FALSE(try_credentials(root_.issue(one_way), root_.certificate_pem(), kClientUri));
}

TEST_F(CredentialsTest, RefusesPemThatIsNone) {
  const Issued issued = root_.issue(workload(kClientUri));
  const std::string root = root_.certificate_pem();
  const auto attempt = [&](std::vector<std::string> chain, const std::string& roots) {
    return Credentials::create(*KeyPair::from_pem(issued.key_pem), chain, roots, id_of(kClientUri))
        .has_value();
  };
  EXPECT_TRUE(attempt({issued.certificate_pem}, root));
  EXPECT_TRUE(attempt({issued.certificate_pem + root}, root + root)) << "bundles, and the root sent along";
  EXPECT_FALSE(attempt({}, root));
  EXPECT_FALSE(attempt({""}, root));
  EXPECT_FALSE(attempt({issued.certificate_pem}, ""));
  EXPECT_FALSE(attempt({issued.certificate_pem}, "no certificate"));
  EXPECT_FALSE(attempt({issued.certificate_pem.substr(0, 200)}, root));
  std::string damaged = issued.certificate_pem;
  damaged[100] = damaged[100] == 'A' ? 'B' : 'A';
  EXPECT_FALSE(attempt({damaged}, root));
  std::vector<std::string> many(100, root);
  many.insert(many.begin(), issued.certificate_pem);
  EXPECT_FALSE(attempt(many, root)) << "longer than peers take";
}

TEST_F(CredentialsTest, RefusesKeysThatAreNoP256) {
  EXPECT_FALSE(KeyPair::from_pem(""));
  EXPECT_FALSE(KeyPair::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"));
  for (EVP_PKEY* key : {EVP_EC_gen("P-384"), EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")}) {
    BIO* bio = BIO_new(BIO_s_mem());
    ASSERT_EQ(PEM_write_bio_PKCS8PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr), 1);
    char* text = nullptr;
    const long length = BIO_get_mem_data(bio, &text);
    EXPECT_FALSE(KeyPair::from_pem({text, static_cast<size_t>(length)}));
    BIO_free(bio);
    EVP_PKEY_free(key);
  }
}

TEST_F(CredentialsTest, DoesNotAskForAPassphrase) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  BIO* bio = BIO_new(BIO_s_mem());
  ASSERT_EQ(PEM_write_bio_PKCS8PrivateKey(bio, key, EVP_aes_128_cbc(), "secret", 6, nullptr, nullptr), 1);
  char* text = nullptr;
  const long length = BIO_get_mem_data(bio, &text);
  EXPECT_FALSE(KeyPair::from_pem({text, static_cast<size_t>(length)}));
  BIO_free(bio);
  EVP_PKEY_free(key);
}

TEST(KeyMemory, IsProtectedBeforeTheFirstUseOfOpenSslOrNotAtAll) {
  ASSERT_TRUE(KeyPair::generate());
  EXPECT_FALSE(protect_keys());
}

}  // namespace
}  // namespace fairlead::tls
