//! A collector: takes what brokers export by OTLP over gRPC and keeps it.
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    metrics::v1::Metric,
    trace::v1::Span,
};
use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

#[derive(Debug, Clone, Default)]
pub struct Collector {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Vec<Span>,
    metrics: Vec<Metric>,
}

impl Collector {
    /// The same behind TLS; the authority of its certificate is written into the file.
    /// # Errors
    /// When there is no free port, or the file cannot be written.
    pub async fn start_tls(authority: &Path) -> io::Result<(Self, SocketAddr)> {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        std::fs::write(authority, own.cert.pem())?;
        let identity = Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
        let tls = ServerTlsConfig::new().identity(identity);
        Self::serve(Server::builder().tls_config(tls).map_err(io::Error::other)?).await
    }

    /// Listens until the runtime ends.
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> io::Result<(Self, SocketAddr)> {
        Self::serve(Server::builder()).await
    }

    async fn serve(mut server: Server) -> io::Result<(Self, SocketAddr)> {
        let this = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = server
            .add_service(TraceServiceServer::new(this.clone()))
            .add_service(MetricsServiceServer::new(this.clone()));
        tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
        Ok((this, address))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every span so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.kept().spans.clone()
    }

    /// The last values so far, by export.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        self.kept().metrics.clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|one| one.scope_spans);
        self.kept().spans.extend(spans.flat_map(|one| one.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let metrics = request.into_inner().resource_metrics.into_iter().flat_map(|one| one.scope_metrics);
        self.kept().metrics.extend(metrics.flat_map(|one| one.metrics));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
