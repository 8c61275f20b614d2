// How long each side of a hand-over waits for what, by name. The inner ones are shorter than those around
// them: the proxies give up first, so that both keepers hear of it and nobody has to guess.
#pragma once

#include <chrono>

namespace fairlead::keeper {

// The running agent.
constexpr std::chrono::seconds kAskDeadline{2};       // a connection says what it wants
constexpr std::chrono::seconds kOfferDeadline{60};    // … could serve
constexpr std::chrono::seconds kMoveDeadline{10};     // either proxy says what has become of the connections
constexpr std::chrono::seconds kFarewellDeadline{5};  // the successor answers at the sockets' names

// The successor.
constexpr std::chrono::seconds kAnswerDeadline{10};   // pods, or a refusal
constexpr std::chrono::seconds kPrepareDeadline{30};  // its proxy has the mesh and its certificates
constexpr std::chrono::seconds kTakeDeadline{15};     // from Prepared to the end
constexpr std::chrono::seconds kLockDeadline{3};      // the lock of a running agent that died on the way
constexpr std::chrono::milliseconds kLockRetry{50};
constexpr std::chrono::seconds kFindDeadline{5};  // a running agent that holds the lock listens
constexpr std::chrono::milliseconds kFindRetry{50};

}  // namespace fairlead::keeper
