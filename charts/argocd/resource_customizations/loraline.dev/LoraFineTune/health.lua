-- Health of a LoraFineTune for Argo CD: Healthy means that the adapter of this very spec is published.
-- A run that waits in a queue is Progressing, not Suspended: Suspended would let a sync wave go on without it.
local hs = { status = "Progressing", message = "the operator has not seen this spec yet" }

if obj.metadata.deletionTimestamp ~= nil then
  hs.message = "being deleted"
  return hs
end
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end
local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

if conditions.Ready ~= nil then
  hs.message = conditions.Ready.message
end
if holds("Failed") or holds("Stalled") then
  hs.status = "Degraded"
elseif holds("Suspended") then
  hs.status = "Suspended"
elseif holds("Ready") then
  hs.status = "Healthy"
end
return hs
