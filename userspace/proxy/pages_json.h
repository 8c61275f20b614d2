// Connections and decisions as JSON: what may be too much for one answer comes in pages. A cursor has one
// number for each worker; it is the asker's to give back and nobody's to understand.
//
//   question  {} or {"instance":"…","cursor":[…]}
//   answer    {"instance":"…","cursor":[…],"rows":[…],"silentWorkers":0,…}
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proxy/worker.h"

namespace fairlead::proxy {

// Who answers.
struct Answerer {
  std::string instance;
  size_t workers = 0;
};
struct PageQuestion {
  std::vector<uint64_t> cursor;  // one number for each worker, or none: from the start
  bool of_another = false;       // the cursor was another instance's, and is worth nothing here
};
Result<PageQuestion> page_question(std::string_view argument, const Answerer& answerer);

std::string connections_json(const std::vector<WorkerReport>& reports);
// "more": the next page is asked for with the cursor; "total": how many there are.
std::string connections_page_json(const Answerer& answerer, const std::vector<WorkerReport>& reports);
// The youngest first.
std::string decisions_json(const std::vector<WorkerReport>& reports);
// The oldest first. "missed": how many more were asked for that are no longer remembered.
std::string decisions_page_json(const Answerer& answerer, const PageQuestion& question,
                                const std::vector<WorkerReport>& reports);

}  // namespace fairlead::proxy
