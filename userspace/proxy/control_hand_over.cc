// The control thread while connections change hands: as the old proxy it freezes the workers and gives what
// they pack, as the successor it has its own build it. contract/parcels.h tells the order.
#include <unistd.h>

#include "base/log.h"
#include "proxy/control.h"

namespace fairlead::proxy {

// ---- the old proxy
// -----------------------------------------------------------------------------------------------------

void Control::hand_over(UniqueFd to_successor) {
  if (giver_ != nullptr || successor_ || given_ || draining_workers_ != 0)
    return send_to_keeper(contract::HandOverFailed{"the proxy is busy with its own end"});
  auto giver = ParcelGiver::open(*reactor_, std::move(to_successor), *this);
  if (!giver) return send_to_keeper(contract::HandOverFailed{giver.error().text()});
  giver_ = std::move(*giver);
  loads_.clear();
  packing_ = workers_.size();
  ++attempt_;
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->freeze([this, attempt = attempt_, i](Result<std::vector<Parcel>> result) {
      auto parcels = std::make_shared<Result<std::vector<Parcel>>>(std::move(result));
      reactor_->send([this, attempt, i, parcels] { packed(attempt, i, std::move(*parcels)); });
    });
  }
}

void Control::packed(uint64_t attempt, size_t worker, Result<std::vector<Parcel>> parcels) {
  if (giver_ == nullptr || attempt != attempt_) return;
  if (!parcels) return giver_->give_up(parcels.error().text());
  loads_.push_back({static_cast<uint16_t>(worker), std::move(*parcels)});
  if (--packing_ == 0) giver_->send(std::exchange(loads_, {}));
}

void Control::giving_failed(const std::string& why) {
  log::warn("proxy", "hand-over failed, going on: {}", why);
  loads_.clear();
  reactor_->defer_destroy(std::move(giver_));
  for (auto& worker : workers_) worker->thaw();  // behind the freeze, whether it has answered or not
  send_to_keeper(contract::HandOverFailed{why});
  if (waiting_ != nullptr) apply_snapshot(std::exchange(waiting_, nullptr));
}

// The connections are the successor's. No socket and no map entry is touched here any more.
void Control::committed() {
  given_ = true;
  queries_->let_go();
  send_to_keeper(contract::HandedOver{});
  letting_go_ = workers_.size();
  for (auto& worker : workers_) {
    worker->let_go([this] {
      reactor_->send([this] {
        --letting_go_;
        leave_when_gone();
      });
    });
  }
}

void Control::giving_done() {
  reactor_->defer_destroy(std::move(giver_));
  leave_when_gone();
}

void Control::leave_when_gone() {
  if (giver_ != nullptr || letting_go_ != 0) return;
  log::info("proxy", "hand-over: the connections are the successor's");
  leave(0);
}

// ---- the successor
// ----------------------------------------------------------------------------------------------------

void Control::tell_when_ready() {
  if (!successor_ || told_ready_ || !all_pods_known_ || !in_force_) return;
  for (const SpiffeId& id : identities_) {
    if (!held_.contains(id) && !unheld_.contains(id)) return;
  }
  told_ready_ = true;
  log::info("proxy", "hand-over: ready, with {} certificates", held_.size());
  send_to_keeper(contract::CanTakeOver{});
}

void Control::take_over(std::vector<UniqueFd> from_old) {
  if (!told_ready_ || !successor_ || taker_ != nullptr) {
    log::error("proxy", "the keeper orders a hand-over out of turn");
    return leave(1);
  }
  if (from_old.empty()) return taken();  // there was none that served
  auto taker = ParcelTaker::open(*reactor_, std::move(from_old[0]), *this);
  if (!taker) return taking_failed(taker.error().text());
  taker_ = std::move(*taker);
}

// Workers of the old proxy become those of this one, which may be fewer or more.
void Control::unpack(std::vector<std::vector<Parcel>> by_worker) {
  std::vector<std::vector<Parcel>> mine(workers_.size());
  for (size_t i = 0; i < by_worker.size(); ++i) {
    for (Parcel& parcel : by_worker[i]) mine[i % mine.size()].push_back(std::move(parcel));
  }
  unpacking_ = workers_.size();
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->unpack(std::move(mine[i]), [this](const Result<void>& result) {
      reactor_->send([this, result] {
        if (taker_ == nullptr) return;
        if (!result || --unpacking_ == 0) taker_->unpacked(result);
      });
    });
  }
}

// Commit was said: from here on this is the node's proxy. First everything that a connection waits for.
void Control::taken() {
  successor_ = false;
  for (auto& worker : workers_) worker->activate();
  send_to_keeper(contract::TakenOver{});
  queries_->renamed(config_.query_socket);
  log::info("proxy", "hand-over: taken over");
  if (taker_ != nullptr) reactor_->defer_destroy(std::move(taker_));
  if (waiting_ != nullptr) return apply_snapshot(std::exchange(waiting_, nullptr));
  snapshot_taken(snapshot_);
}

void Control::taking_failed(const std::string& why) {
  log::error("proxy", "hand-over: {}", why);
  send_to_keeper(contract::HandOverFailed{why});
  vanish();
}

// What was unpacked shares its sockets with the old proxy, which goes on with them. Destructors would end
// connections in order and take names out of maps: closing copies of fds, which the kernel does, changes
// nothing.
void Control::vanish() noexcept {
  (void)::unlink(config_.listen_socket.c_str());
  ::_exit(1);
}

}  // namespace fairlead::proxy
