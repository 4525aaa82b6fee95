-- Health of an AdapterDeployment for Argo CD: Healthy means that every route answers with the version that it should.
-- A version on its way is Progressing although requests are answered, as with a Deployment that rolls; so is a fine-tune
-- that is not there, as the same sync may bring it a moment later.
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
local is_degraded = holds("Degraded") and conditions.Degraded.reason ~= "FineTuneNotFound"
if holds("Stalled") or is_degraded then
  hs.status = "Degraded"
elseif holds("Ready") and holds("Progressing") then
  hs.message = conditions.Progressing.message
elseif holds("Ready") then
  hs.status = "Healthy"
end
return hs
