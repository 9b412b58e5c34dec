#include "client/src/local_conversation.h"

namespace infercache {
namespace {

void Go(std::unique_ptr<Conversation> conversation, LocalDeadline deadline) {
  v1::LocalRequest request;
  if (!conversation->Next(&request)) return conversation->Deliver();
  LocalConnection& connection = conversation->connection();
  connection.Submit(request, deadline,
                    [conversation = std::move(conversation), deadline](LocalAnswer answer) mutable {
                      conversation->TakeAnswer(std::move(answer));
                      Go(std::move(conversation), deadline);
                    });
}

}  // namespace

void HoldNow(LocalLink& link, LocalDeadline deadline, bool wait_for_daemon,
             Conversation& conversation) {
  LocalLink::Opened opened;
  if (conversation.NeedsSession()) {
    opened = link.Await(wait_for_daemon, deadline);
    if (opened.session == nullptr) return conversation.FailToBegin(opened.status, opened.reached);
  }
  conversation.Begin(std::move(opened.session));
  v1::LocalRequest request;
  while (conversation.Next(&request)) {
    conversation.TakeAnswer(conversation.connection().Call(request, deadline));
    request.Clear();
  }
}

void Hold(LocalLink& link, LocalDeadline deadline, bool wait_for_daemon,
          std::unique_ptr<Conversation> conversation) {
  if (!conversation->NeedsSession()) {
    conversation->Begin(nullptr);
    return Go(std::move(conversation), deadline);
  }
  link.WhenOpen(
      wait_for_daemon, deadline,
      [conversation = std::move(conversation), deadline](LocalLink::Opened opened) mutable {
        if (opened.session == nullptr) {
          conversation->FailToBegin(opened.status, opened.reached);
          return conversation->Deliver();
        }
        conversation->Begin(std::move(opened.session));
        Go(std::move(conversation), deadline);
      });
}

}  // namespace infercache
