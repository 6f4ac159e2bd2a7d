#include "ops/graph.h"

#include <set>

namespace nanoflow {

SymbolId OpGraph::add_symbol(Symbol symbol) {
  symbols.push_back(std::move(symbol));
  return static_cast<SymbolId>(symbols.size()) - 1;
}

OpId OpGraph::add(OpNode node) {
  nodes.push_back(std::move(node));
  return static_cast<OpId>(nodes.size()) - 1;
}

OpId OpGraph::find_op(std::string_view op_name) const {
  for (size_t i = 0; i < nodes.size(); ++i)
    if (nodes[i].name == op_name) return static_cast<OpId>(i);
  return -1;
}

void OpGraph::validate() const {
  std::set<std::string> seen;
  Section last = Section::kPrologue;
  for (const OpNode& node : nodes) {
    NANO_CHECK(seen.insert(node.name).second, "{}: op {} appears twice", name, node.name);
    NANO_CHECK(node.section >= last, "{}: op {} is out of section order", name, node.name);
    NANO_CHECK(node.bind != nullptr, "{}: op {} has no bind", name, node.name);
    last = node.section;
    for (const Operand& operand : node.operands) {
      NANO_CHECK(operand.symbol >= 0 && operand.symbol < static_cast<SymbolId>(symbols.size()),
                 "{}: op {} names symbol {}", name, node.name, operand.symbol);
    }
  }
}

}  // namespace nanoflow
