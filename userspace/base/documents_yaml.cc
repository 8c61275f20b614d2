#include "base/documents_yaml.h"

#include <yaml-cpp/eventhandler.h>

#include <sstream>

namespace fairlead {
namespace {

// Takes note of where documents begin, and of nothing else.
class Survey final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override {
    if (count_ > 0 && mark.pos <= last_.pos)
      throw YAML::ParserException(mark, "a token that can begin no document");
    if (++count_ > kMaxDocuments) throw YAML::ParserException(mark, "too many documents in one file");
    last_ = mark;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}

 private:
  size_t count_ = 0;
  YAML::Mark last_;
};

}  // namespace

std::vector<YAML::Node> load_documents(const std::string& content) {
  std::istringstream stream(content);
  YAML::Parser parser(stream);
  Survey survey;
  while (parser.HandleNextDocument(survey)) {
  }
  return YAML::LoadAll(content);
}

}  // namespace fairlead
