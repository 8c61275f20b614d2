#include "control/ca/roots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "base/file.h"
#include "control/ca/issuer.h"
#include "unit/control_ca/keys.h"

namespace fairlead::ca {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using ::testing::HasSubstr;
using namespace testing;
using Phase = RootChange::Phase;

const SpiffeId kId{"cluster.local", "shop", "seller"};
constexpr seconds kLongest{3600};

class RootsTest : public ::testing::Test {
 protected:
  void SetUp() override { ca_ = open(); }
  std::unique_ptr<DevelopmentCa> open() {
    auto opened = DevelopmentCa::open(directory_.path(), kLongest);
    EXPECT_TRUE(opened) << opened.error().text();
    return opened ? std::move(*opened) : nullptr;
  }
  [[nodiscard]] std::string path(const char* name) const { return directory_.path() + "/" + name; }
  IssuedCertificate issue() {
    auto issued = ca_->sign(csr({}), kId, seconds(0));
    EXPECT_TRUE(issued) << issued.error().text();
    return issued ? *issued : IssuedCertificate();
  }
  RootsReport look() {
    auto report = look_at_roots(directory_.path(), kLongest);
    EXPECT_TRUE(report) << report.error().text();
    return report ? *report : RootsReport();
  }
  // As if the last change of the file had been before the longest life of a certificate.
  void age(const char* name) {
    const time_t then = ::time(nullptr) - kLongest.count() - kRootsNoticed.count() - 1;
    const timeval times[2] = {{then, 0}, {then, 0}};
    ASSERT_EQ(::utimes(path(name).c_str(), times), 0);
  }
  std::string refusal(const Result<void>& step) {
    if (step) return "it was let through";
    EXPECT_EQ(step.error().kind(), ErrorKind::kDenied);
    return step.error().text();
  }

  TemporaryDirectory directory_;
  std::unique_ptr<DevelopmentCa> ca_;
};

// Against a bundle, by the strict rules that agents verify by.
bool stands(const IssuedCertificate& issued, const std::string& bundle) {
  X509_STORE* store = X509_STORE_new();
  const Ptr<BIO> in(BIO_new_mem_buf(bundle.data(), static_cast<int>(bundle.size())));
  while (X509* root = PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr)) {
    X509_STORE_add_cert(store, root);
    X509_free(root);
  }
  X509_STORE_set_flags(store, X509_V_FLAG_X509_STRICT | X509_V_FLAG_PARTIAL_CHAIN);
  const Ptr<X509> leaf = certificate_of(issued.leaf_pem);
  X509_STORE_CTX* context = X509_STORE_CTX_new();
  X509_STORE_CTX_init(context, store, leaf.get(), nullptr);
  const bool good = X509_verify_cert(context) == 1;
  X509_STORE_CTX_free(context);
  X509_STORE_free(store);
  return good;
}

TEST_F(RootsTest, ChangeStepByStepSoThatWhateverIsValidStandsBeforeEverybody) {
  const IssuedCertificate first = issue();
  ASSERT_TRUE(add_root(directory_.path(), kLongest));
  EXPECT_EQ(ca_->refresh().value(), RootsChanged::kTrusted);
  const IssuedCertificate second = issue();
  EXPECT_TRUE(stands(second, first.roots_pem)) << "the old root signs still";
  EXPECT_NE(second.roots_pem, first.roots_pem) << "both are trusted by whoever is given a certificate now";
  EXPECT_EQ(look().change.phase, Phase::kAdded);

  age("root-cert.pem");
  ASSERT_TRUE(use_root(directory_.path(), kLongest, false));
  EXPECT_EQ(ca_->refresh().value(), RootsChanged::kSigner);
  const IssuedCertificate third = issue();
  EXPECT_FALSE(stands(third, first.roots_pem));
  EXPECT_TRUE(stands(third, second.roots_pem)) << "who has the bundle of both takes the new one";
  EXPECT_TRUE(stands(second, third.roots_pem)) << "and the other way round";
  EXPECT_EQ(look().change.phase, Phase::kInUse);

  age("root-key.pem");
  ASSERT_TRUE(retire_root(directory_.path(), kLongest, false));
  EXPECT_EQ(ca_->refresh().value(), RootsChanged::kTrusted);
  const IssuedCertificate fourth = issue();
  EXPECT_TRUE(stands(fourth, third.roots_pem));
  EXPECT_TRUE(stands(third, fourth.roots_pem));
  EXPECT_FALSE(stands(second, fourth.roots_pem)) << "the old root is gone";
  EXPECT_EQ(look().change.phase, Phase::kNone);
  EXPECT_EQ(ca_->refresh().value(), RootsChanged::kNo);
}

TEST_F(RootsTest, NoStepBeforeCertificatesOfTheLastOneHaveRunOut) {
  ASSERT_TRUE(add_root(directory_.path(), kLongest));
  EXPECT_THAT(refusal(use_root(directory_.path(), kLongest, false)), HasSubstr("valid for 36"));
  age("root-cert.pem");
  ASSERT_TRUE(use_root(directory_.path(), kLongest, false));
  EXPECT_THAT(refusal(retire_root(directory_.path(), kLongest, false)), HasSubstr("valid for 36"));
  EXPECT_TRUE(retire_root(directory_.path(), kLongest, true)) << "unless it is meant so";
}

TEST_F(RootsTest, NoStepOutOfTurn) {
  EXPECT_THAT(refusal(use_root(directory_.path(), kLongest, true)), HasSubstr("add one first"));
  EXPECT_THAT(refusal(retire_root(directory_.path(), kLongest, true)), HasSubstr("no root is to be retired"));
  ASSERT_TRUE(add_root(directory_.path(), kLongest));
  EXPECT_THAT(refusal(add_root(directory_.path(), kLongest)), HasSubstr("two roots already"));
  EXPECT_THAT(refusal(retire_root(directory_.path(), kLongest, true)), HasSubstr("no root is to be retired"));
  ASSERT_TRUE(use_root(directory_.path(), kLongest, true));
  EXPECT_THAT(refusal(use_root(directory_.path(), kLongest, true)), HasSubstr("add one first"));
  EXPECT_THAT(refusal(add_root(directory_.path(), kLongest)), HasSubstr("two roots already"));
}

TEST_F(RootsTest, StepsThatWereCutShortAreGoneOnWith) {
  // add: the key is there and its root is not.
  ASSERT_TRUE(write_file_atomically(path("next-root-key.pem"), "half a key", 0600));
  EXPECT_EQ(look().change.phase, Phase::kNone);
  ASSERT_TRUE(add_root(directory_.path(), kLongest));
  // use: the key is in use and was not removed where it waited.
  const std::string key = read_file(path("next-root-key.pem")).value();
  ASSERT_TRUE(write_file_atomically(path("root-key.pem"), key, 0600));
  EXPECT_EQ(look().change.phase, Phase::kInUse);
  EXPECT_EQ(ca_->refresh().value(), RootsChanged::kSigner);
  ASSERT_TRUE(retire_root(directory_.path(), kLongest, true));
  EXPECT_FALSE(read_file(path("next-root-key.pem")));
  EXPECT_EQ(look().change.phase, Phase::kNone);
}

TEST_F(RootsTest, AnotherStartGoesOnWhereItWas) {
  ASSERT_TRUE(add_root(directory_.path(), kLongest));
  const IssuedCertificate before = issue();  // not looked yet
  ca_ = open();
  const IssuedCertificate added = issue();
  EXPECT_TRUE(stands(added, before.roots_pem));
  EXPECT_NE(added.roots_pem, before.roots_pem);
  ASSERT_TRUE(use_root(directory_.path(), kLongest, true));
  ca_ = open();
  EXPECT_FALSE(stands(issue(), before.roots_pem));
}

TEST_F(RootsTest, BrokenFilesChangeNothing) {
  const IssuedCertificate before = issue();
  ASSERT_TRUE(add_root(directory_.path(), kLongest));
  const std::string both = read_file(path("root-cert.pem")).value();
  const std::pair<const char*, std::string> cases[] = {
      {"nothing", ""},
      {"no certificates", "nonsense"},
      {"the second one broken", both.substr(0, both.size() - 200) + "\n-----END CERTIFICATE-----\n"},
      {"cut short", both.substr(0, both.size() - 200)},
      {"only the one that does not sign", both.substr(both.find("-----BEGIN", 1))},
      {"three", both + both.substr(both.find("-----BEGIN", 1))},
  };
  for (const auto& [sentence, content] : cases) {
    ASSERT_TRUE(write_file_atomically(path("root-cert.pem"), content, 0644));
    EXPECT_FALSE(ca_->refresh()) << sentence;
    EXPECT_EQ(issue().roots_pem, before.roots_pem) << sentence;
  }
  ASSERT_TRUE(write_file_atomically(path("root-cert.pem"), both, 0644));
  EXPECT_EQ(ca_->refresh().value(), RootsChanged::kTrusted);
  EXPECT_EQ(issue().roots_pem, both);
}

TEST_F(RootsTest, NextKeyIsForItsOwnerOnly) {
  ASSERT_TRUE(add_root(directory_.path(), kLongest));
  struct stat status{};
  ASSERT_EQ(::stat(path("next-root-key.pem").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
  ASSERT_TRUE(use_root(directory_.path(), kLongest, true));
  ASSERT_EQ(::stat(path("root-key.pem").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
}

TEST_F(RootsTest, NoLifeIsLongerThanTheLongest) {
  const auto issued = ca_->sign(csr({}), kId, hours(24));
  ASSERT_TRUE(issued);
  int days = 0;
  int left = 0;
  ASN1_TIME_diff(&days, &left, nullptr, X509_get0_notAfter(certificate_of(issued->leaf_pem).get()));
  EXPECT_LE(days * 86400L + left, kLongest.count());
}

}  // namespace
}  // namespace fairlead::ca
