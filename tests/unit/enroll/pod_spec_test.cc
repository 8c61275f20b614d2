#include "enroll/pod_spec.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"

namespace fairlead::enroll {
namespace {

constexpr std::string_view kGood =
    R"({"uid":"u-1","namespace":"a","name":"b","serviceAccount":"c","netns":"/run/netns/x","cgroup":"/sys/fs/cgroup/p","annotations":{"k":"v"}})";

std::string with(std::string_view from, std::string_view to) {
  std::string text(kGood);
  text.replace(text.find(from), from.size(), to);
  return text;
}

TEST(PodSpec, DecodesWhatTheCommandLineSends) {
  const auto pod = pod_from_json(kGood);
  ASSERT_TRUE(pod) << pod.error().text();
  EXPECT_EQ(pod->ns, "a");
  EXPECT_EQ(pod->service_account, "c");
  EXPECT_EQ(pod->annotations.at("k"), "v");
}

TEST(PodSpec, RefusesWhatCouldEscapeADirectoryOrMeanSomethingElse) {
  const std::vector<std::string> bad = {"",
                                        "[]",
                                        "{",
                                        with("u-1", ""),
                                        with("u-1", "../x"),
                                        with("u-1", "a/b"),
                                        with("\"a\"", "\"a b\""),
                                        with("/run/netns/x", "relative"),
                                        with("/run/netns/x", "/run/../etc"),
                                        with("\"namespace\"", "\"nameSpace\""),
                                        with("{\"k\":\"v\"}", "{\"k\":1}"),
                                        with("\"b\"", "7"),
                                        with("u-1", std::string(64, 'u'))};
  for (const std::string& text : bad) EXPECT_FALSE(pod_from_json(text)) << text;
}

TEST(Exclusions, ReadIstiosAnnotations) {
  PodSpec pod = *pod_from_json(kGood);
  pod.annotations["traffic.sidecar.istio.io/excludeOutboundPorts"] = "22, 3306,";
  pod.annotations["traffic.sidecar.istio.io/excludeInboundPorts"] = "9090";
  pod.annotations["traffic.sidecar.istio.io/excludeOutboundIPRanges"] = "10.0.0.0/8,fd00::/8";
  const auto exclusions = exclusions_of(pod);
  ASSERT_TRUE(exclusions);
  EXPECT_EQ(exclusions->outbound_ports, (std::vector<uint16_t>{22, 3306}));
  EXPECT_EQ(exclusions->inbound_ports, std::vector<uint16_t>{9090});
  EXPECT_EQ(exclusions->outbound_ranges.size(), 2u);
}

TEST(Exclusions, RefuseWhatIsNoPortOrRange) {
  for (const auto& [key, value] :
       {std::pair("excludeOutboundPorts", "0"), std::pair("excludeOutboundPorts", "http"),
        std::pair("excludeInboundPorts", "70000"), std::pair("excludeOutboundIPRanges", "10.0.0.0/33")}) {
    PodSpec pod = *pod_from_json(kGood);
    pod.annotations[std::string("traffic.sidecar.istio.io/") + key] = value;
    const auto exclusions = exclusions_of(pod);
    ASSERT_FALSE(exclusions) << value;
    EXPECT_NE(exclusions.error().text().find(key), std::string::npos) << "names the annotation";
  }
}

TEST(PodsFile, ComesBackAsItWasAndNamesItselfWhenBroken) {
  const std::string path = ::testing::TempDir() + "/pods-" + std::to_string(::getpid()) + ".json";
  EXPECT_TRUE(load_pods(path)->empty()) << "no file: no pods";
  ASSERT_TRUE(save_pods(path, {*pod_from_json(kGood)}));
  const auto loaded = load_pods(path);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->at(0).uid, "u-1");
  ASSERT_TRUE(write_file_atomically(path, "[{\"uid\":"));
  const auto broken = load_pods(path);
  ASSERT_FALSE(broken);
  EXPECT_NE(broken.error().text().find(path), std::string::npos);
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace fairlead::enroll
