{{- define "mosquorum.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The headless service: it gives each pod its name, ready or not. */}}
{{- define "mosquorum.peers" -}}
{{ include "mosquorum.fullname" . }}-peers
{{- end -}}

{{/* What a pod's name is followed by. */}}
{{- define "mosquorum.domain" -}}
{{ include "mosquorum.peers" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{/* Never changes in the life of a release. */}}
{{- define "mosquorum.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 50 }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mosquorum.labels" -}}
{{ include "mosquorum.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mosquorum.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* The Secret with the certificates between nodes. */}}
{{- define "mosquorum.peersSecret" -}}
{{- if eq .Values.tls.peers.mode "existingSecret" -}}
{{ required "tls.peers.mode existingSecret needs tls.peers.existingSecret" .Values.tls.peers.existingSecret }}
{{- else -}}
{{ include "mosquorum.peers" . }}-tls
{{- end -}}
{{- end -}}

{{- define "mosquorum.clientsTls" -}}
{{- if or .Values.listeners.mqtts.enabled (and .Values.listeners.websockets.enabled .Values.listeners.websockets.tls) -}}true{{- end -}}
{{- end -}}

{{- define "mosquorum.clientsSecret" -}}
{{- if eq .Values.tls.clients.mode "existingSecret" -}}
{{ required "a listener with TLS needs tls.clients.existingSecret, or tls.clients.mode certManager" .Values.tls.clients.existingSecret }}
{{- else -}}
{{ include "mosquorum.fullname" . }}-clients-tls
{{- end -}}
{{- end -}}

{{- define "mosquorum.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Ordinals of nodes that a release of this size does not have. */}}
{{- define "mosquorum.beyond" -}}
{{- $names := list -}}
{{- range $ordinal := untilStep (int .Values.replicaCount) 9 1 -}}
{{- $names = append $names (printf "%s-%d" (include "mosquorum.fullname" $) $ordinal) -}}
{{- end -}}
{{ join " " $names }}
{{- end -}}

{{- define "mosquorum.tlsLines" -}}
certfile /mosquitto/certs/clients/tls.crt
keyfile /mosquitto/certs/clients/tls.key
{{- if .Values.tls.clients.requireCertificate }}
cafile /mosquitto/certs/clients/ca.crt
require_certificate true
{{- end }}
{{- end -}}

{{/* mosquitto.conf. What differs between pods is in their environment. */}}
{{- define "mosquorum.conf" -}}
persistence true
persistence_location /mosquitto/data/
log_dest stderr
allow_anonymous {{ .Values.auth.anonymous }}
{{- if .Values.auth.existingSecret }}
password_file /mosquitto/auth/passwords
{{- if .Values.auth.acl }}
acl_file /mosquitto/auth/acl
{{- end }}
{{- end }}
{{- with .Values.config }}
{{- trim . | nindent 0 }}
{{- end }}
{{- with .Values.listeners.mqtt }}
{{- if .enabled }}

listener {{ .port }}
{{- with .config }}
{{- trim . | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.listeners.mqtts }}
{{- if .enabled }}

listener {{ .port }}
{{- include "mosquorum.tlsLines" $ | nindent 0 }}
{{- with .config }}
{{- trim . | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.listeners.websockets }}
{{- if .enabled }}

listener {{ .port }}
protocol websockets
{{- if .tls }}
{{- include "mosquorum.tlsLines" $ | nindent 0 }}
{{- end }}
{{- with .config }}
{{- trim . | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.bridges }}

{{- trim . | nindent 0 }}
{{- end }}
{{- end -}}
