-- Sends every new chest-radiograph candidate to the modality "chexnode", once. ChexNode decides what it analyses and
-- says why not; this only keeps CT, MR and the like off the wire, and ChexNode's own results from going round.

local MODALITY = 'chexnode'
local WANTED = { CR = true, DX = true, RG = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
   if WANTED[tags['Modality']] and tags['Manufacturer'] ~= 'ChexNode' then
      -- A job, so that storing never waits for ChexNode.
      RestApiPost('/modalities/' .. MODALITY .. '/store',
                  DumpJson({ Resources = { instanceId }, Synchronous = false }))
   end
end

-- Every LuaHeartBeatPeriod seconds (Orthanc 1.11.1 or newer): tries again what failed while ChexNode was away. Orthanc
-- remembers its last "JobsHistorySize" jobs.
function OnHeartBeat()
   for _, job in pairs(ParseJson(RestApiGet('/jobs?expand'))) do
      if job['Type'] == 'DicomModalityStore' and job['State'] == 'Failure'
         and job['Content']['RemoteAet'] == 'CHEXNODE' then
         RestApiPost('/jobs/' .. job['ID'] .. '/resubmit', '')
      end
   end
end
